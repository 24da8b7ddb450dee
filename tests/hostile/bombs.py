"""Models that load, or nearly, and then ask the runtime for what no machine has, or for what is not theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from tests.hostile.files import CRASH, HUGE, LOAD, MEMORY, SERVED, TIME, Content, File, X, Y, nodes
from tests.unit.serving import models
from tests.unit.serving.models import BOOL, DATATYPES, FLOAT, INT64, STRING, build, node

INTS = {"x": (INT64, [None, 1])}
INT_ANSWER = {"y": (INT64, [None, 1])}
FOUR = {"x": (FLOAT, [None, 1, 4, 4])}
ANY_SHAPE = {"y": (FLOAT, None)}
LONGEST = np.array(np.iinfo(np.int64).max)


def size(*sizes: int) -> np.ndarray[Any, Any]:
    return np.array(sizes, np.int64)


def floats(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


def ml(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), domain="ai.onnx.ml", **attributes)


def classical(
    *made: onnx.NodeProto, outputs: dict[str, tuple[int, Any]] = Y, inputs: dict[str, tuple[int, Any]] = X
) -> Content:
    """A model of operators for classical machine learning."""

    def make() -> bytes:
        model = onnx.load_from_string(build(made, inputs, outputs))
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
        content: bytes = model.SerializeToString()
        return content

    return make


def loop(
    *steps: onnx.NodeProto, count: np.ndarray[Any, Any] = LONGEST, shape: Any = (None, 1), **constants: Any
) -> Content:
    """A loop whose body makes `w` of `v`, first `x`."""

    def make() -> bytes:
        body = helper.make_graph(
            [node("Identity", "going", "on"), *steps],
            "body",
            [
                helper.make_tensor_value_info("n", INT64, []),
                helper.make_tensor_value_info("going", BOOL, []),
                helper.make_tensor_value_info("v", FLOAT, None),
            ],
            [helper.make_tensor_value_info("on", BOOL, []), helper.make_tensor_value_info("w", FLOAT, None)],
            [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
        )
        made = helper.make_node("Loop", ["count", "yes", "x"], ["y"], body=body)
        return build([made], X, {"y": (FLOAT, shape)}, yes=np.array(True), count=count)

    return make


def tree(**changes: Any) -> Content:
    """A tree of three nodes, with some of it changed."""
    whole: dict[str, Any] = {
        "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.5, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0], "nodes_missing_value_tracks_true": [0, 0, 0],
        "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [1.0, 2.0],
        "n_targets": 1,
    }  # fmt: skip
    return classical(ml("TreeEnsembleRegressor", "x", "y", **(whole | changes)))


def only_when(when: str, *steps: onnx.NodeProto, **constants: np.ndarray[Any, Any]) -> Content:
    """A model that is harmless until it does `steps` (`x` to `bad`): for "many" rows, or a value above a number."""

    def make() -> bytes:
        good = helper.make_graph(
            [node("Identity", "x", "good")], "good", [], [helper.make_tensor_value_info("good", FLOAT, None)]
        )
        bad = helper.make_graph(
            list(steps),
            "bad",
            [],
            [helper.make_tensor_value_info("bad", FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        if when == "many":
            asked = [node("Shape", "x", "s", start=0, end=1), node("Squeeze", "s", "r"), node("Greater", "r one", "c")]
            known = {"one": np.array(1, np.int64)}
        else:
            asked = [node("ReduceMax", "x", "m", keepdims=0), node("Greater", "m edge", "c")]
            known = {"edge": np.array(float(when), np.float32)}
        choice = helper.make_node("If", ["c"], ["y"], then_branch=bad, else_branch=good)
        return build([*asked, choice], X, Y, **known)

    return make


def endless_branch(when: str) -> Content:
    inner = helper.make_graph(
        [node("Identity", "going", "on"), node("Identity", "v", "w")],
        "body",
        [
            helper.make_tensor_value_info("n", INT64, []),
            helper.make_tensor_value_info("going", BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, None),
        ],
        [helper.make_tensor_value_info("on", BOOL, []), helper.make_tensor_value_info("w", FLOAT, None)],
    )
    step = helper.make_node("Loop", ["", "yes", "x"], ["bad"], body=inner)
    return only_when(when, step, yes=np.array(True))


def greedy_branch(when: str, bytes_wanted: int = 1 << 42) -> Content:
    return only_when(
        when,
        node("ConstantOfShape", "much", "block"),
        node("ReduceSum", "block", "sum", keepdims=0),
        node("Add", "x sum", "bad"),
        much=size(bytes_wanted // 4),
    )


def doubled_text(times: int) -> bytes:
    """A text that is put behind itself, so many times."""
    steps = [node("StringConcat", f"h{n} h{n}" if n else "x x", f"h{n + 1}") for n in range(times - 1)]
    last = node("StringConcat", f"h{times - 1} h{times - 1}", "y")
    return build([*steps, last], {"x": (STRING, [None, 1])}, {"y": (STRING, [None, 1])})


def recurrent(operator: str, gates: int, **changes: np.ndarray[Any, Any]) -> Content:
    """A recurrent layer whose weights can be of a wrong size."""
    weights = {"w": np.zeros((1, gates * 2, 1), np.float32), "r": np.zeros((1, gates * 2, 2), np.float32)} | changes
    return nodes(
        node(operator, "x w r", "y", hidden_size=2),
        inputs={"x": (FLOAT, [1, None, 1])},
        outputs={"y": (FLOAT, None)},
        **weights,
    )


BOMBS = [
    # Constants that the runtime may work out while it loads.
    File(
        "2^60 zeros",
        nodes(
            node("ConstantOfShape", "s", "z"),
            node("ReduceSum", "z", "r", keepdims=0),
            node("Add", "x r", "y"),
            s=size(HUGE),
        ),
        MEMORY,
    ),
    File("2^40 zeros", models.greedy, MEMORY),
    File(
        "zeros whose number overflows",
        nodes(node("ConstantOfShape", "s", "y"), outputs=ANY_SHAPE, s=size(1 << 32, 1 << 32)),
        SERVED,
    ),
    File("a negative number of zeros", nodes(node("ConstantOfShape", "s", "y"), outputs=ANY_SHAPE, s=size(-4)), LOAD),
    File("Expand to 2^60", nodes(node("Expand", "x s", "y"), outputs=ANY_SHAPE, s=size(HUGE, 1)), MEMORY),
    File(
        "Expand of a constant to 2^60",
        nodes(
            node("Expand", "c s", "e"),
            node("ReduceMax", "e", "m", keepdims=0),
            node("Add", "x m", "y"),
            c=floats(1),
            s=size(HUGE),
        ),
        MEMORY,
    ),
    File(
        "Expand whose size overflows",
        nodes(node("Expand", "x s", "y"), outputs=ANY_SHAPE, s=size(1 << 31, 1 << 31, 1 << 31)),
        SERVED,
    ),
    File("Tile 2^60 times", nodes(node("Tile", "x s", "y"), outputs=ANY_SHAPE, s=size(HUGE, 1)), SERVED),
    File("Tile a negative number of times", nodes(node("Tile", "x s", "y"), outputs=ANY_SHAPE, s=size(-1, -1)), LOAD),
    File(
        "Tile whose size overflows",
        nodes(node("Tile", "x s", "y"), outputs=ANY_SHAPE, s=size(1 << 33, 1 << 33)),
        SERVED,
    ),
    File(
        "a Range to 10^18",
        nodes(
            node("Range", "a b c", "r"),
            node("ReduceSum", "r", "t", keepdims=0),
            node("Cast", "t", "f", to=FLOAT),
            node("Add", "x f", "y"),
            a=np.array(0),
            b=np.array(10**18),
            c=np.array(1),
        ),
        MEMORY,
    ),
    File(
        "a Range in steps of 0",
        nodes(
            node("Range", "a b c", "r"),
            node("ReduceSum", "r", "t", keepdims=0),
            node("Cast", "t", "f", to=FLOAT),
            node("Add", "x f", "y"),
            a=np.array(0),
            b=np.array(10),
            c=np.array(0),
        ),
        SERVED,
    ),
    File("padding of 2^60", nodes(node("Pad", "x p", "y"), outputs=ANY_SHAPE, p=size(HUGE, 0, 0, 0)), MEMORY),
    File(
        "padding that takes more away than there is",
        nodes(node("Pad", "x p", "y"), outputs=ANY_SHAPE, p=size(-100, -100, -100, -100)),
        SERVED,
    ),
    File(
        "an image made 10^9 times larger",
        nodes(
            node("Resize", "x  s".replace("  ", " e "), "y"),
            inputs=FOUR,
            outputs=ANY_SHAPE,
            e=floats(),
            s=floats(1, 1, 1e9, 1e9),
        ),
        SERVED,
    ),
    File(
        "an image made as large as NaN",
        nodes(
            node("Resize", "x e s", "y"), inputs=FOUR, outputs=ANY_SHAPE, e=floats(), s=floats(1, 1, float("nan"), -1)
        ),
        LOAD,
    ),
    File(
        "one of 2^60 hot",
        nodes(node("OneHot", "x d v", "y"), inputs=INTS, outputs=ANY_SHAPE, d=size(HUGE), v=floats(0, 1)),
        MEMORY,
    ),
    File(
        "random numbers, 2^60",
        nodes(
            helper.make_node("RandomNormal", [], ["r"], shape=[HUGE]),
            node("ReduceSum", "r", "t", keepdims=0),
            node("Add", "x t", "y"),
        ),
        MEMORY,
    ),
    File("a text of 2^60 letters", lambda: doubled_text(60), MEMORY),
    File(
        "a Reshape that overflows",
        nodes(node("Reshape", "x s", "y"), outputs=ANY_SHAPE, s=size(1 << 32, 1 << 32)),
        LOAD,
    ),
    File("a Reshape to -2", nodes(node("Reshape", "x s", "y"), outputs=ANY_SHAPE, s=size(-2, 1)), LOAD),
    # Work without end.
    File("a loop without end", models.endless, TIME),
    File("a loop of 2^63 rounds", loop(node("Identity", "v", "w")), TIME),
    File("a loop that doubles its rows", loop(node("Concat", "v v", "w", axis=0)), MEMORY),
    File(
        "a loop that keeps every round",
        loop(node("Identity", "v", "w"), node("Expand", "v big", "k"), big=size(1 << 20, 1)),
        TIME,
    ),
    File("a tree whose branches lead back", tree(nodes_truenodeids=[0, 0, 0], nodes_falsenodeids=[0, 0, 0]), LOAD),
    # Places that are not theirs.
    File(
        "a tree that leads out of its nodes",
        tree(nodes_truenodeids=[99, 0, 0], nodes_falsenodeids=[1 << 40, 0, 0]),
        LOAD,
    ),
    File("a tree with a negative branch", tree(nodes_truenodeids=[-1, 0, 0]), LOAD),
    File("a tree over column 2^40", tree(nodes_featureids=[1 << 40, 0, 0]), LOAD),
    File("a tree over column -1", tree(nodes_featureids=[-1, 0, 0]), LOAD),
    File("a tree over column 9 of 1", tree(nodes_featureids=[9, 0, 0]), SERVED),
    File("a tree with values missing", tree(nodes_values=[0.5]), LOAD),
    File("a tree for target 99", tree(target_ids=[0, 99]), LOAD),
    File("a tree for target -9", tree(target_ids=[0, -9]), LOAD),
    File("a tree for 2^60 targets", tree(n_targets=HUGE), MEMORY),
    File("a tree with other modes", tree(nodes_modes=["BREW", "LEAF", "LEAF"]), LOAD),
    File("a tree without nodes", classical(ml("TreeEnsembleRegressor", "x", "y")), LOAD),
    File("an index of 10^12", nodes(node("Gather", "x i", "y", axis=0), outputs=ANY_SHAPE, i=size(10**12)), SERVED),
    File("an index of -10^12", nodes(node("Gather", "x i", "y", axis=0), outputs=ANY_SHAPE, i=size(-(10**12))), SERVED),
    File(
        "an index beyond the columns",
        nodes(node("GatherElements", "x i", "y", axis=1), outputs=ANY_SHAPE, i=np.array([[99]])),
        SERVED,
    ),
    File(
        "indices beyond all dimensions", nodes(node("GatherND", "x i", "y"), outputs=ANY_SHAPE, i=size(99, 99)), SERVED
    ),
    File(
        "a write beyond the rows",
        nodes(
            node("ScatterElements", "x i u", "y"),
            outputs=ANY_SHAPE,
            i=np.array([[1 << 40]]),
            u=np.array([[1]], np.float32),
        ),
        SERVED,
    ),
    File(
        "a write before the rows",
        nodes(node("ScatterND", "x i u", "y"), outputs=ANY_SHAPE, i=np.array([[-(1 << 40), 0]]), u=floats(1)),
        SERVED,
    ),
    File(
        "columns beyond the end",
        classical(ml("ArrayFeatureExtractor", "x i", "y"), inputs={**X, "i": (INT64, [1])}, outputs=ANY_SHAPE),
        SERVED,
    ),
    File("column 10^9", nodes(ml("ArrayFeatureExtractor", "x i", "y"), outputs=ANY_SHAPE, i=size(10**9)), SERVED),
    File("column -10^9", nodes(ml("ArrayFeatureExtractor", "x i", "y"), outputs=ANY_SHAPE, i=size(-(10**9))), SERVED),
    File(
        "support vectors that are not there",
        classical(
            ml(
                "SVMRegressor",
                "x",
                "y",
                coefficients=[1.0] * 4,
                n_supports=1 << 40,
                rho=[0.0],
                support_vectors=[1.0],
                kernel_type="LINEAR",
            )
        ),
        LOAD,
    ),
    File(
        "classes without vectors",
        classical(
            ml(
                "SVMClassifier",
                "x",
                "y z",
                classlabels_ints=[0, 1],
                coefficients=[1.0],
                vectors_per_class=[1 << 40, 9],
                support_vectors=[1.0],
                rho=[0.0],
                kernel_type="RBF",
                kernel_params=[1.0, 0.0, 0.0],
            ),
            outputs={"y": (INT64, [None])},
        ),
        LOAD,
    ),
    File(
        "coefficients that are not there",
        classical(
            ml("LinearClassifier", "x", "y z", classlabels_ints=list(range(99)), coefficients=[1.0], intercepts=[0.0]),
            outputs={"y": (INT64, [None])},
        ),
        LOAD,
    ),
    File(
        "more keys than values",
        classical(
            ml("LabelEncoder", "x", "y", keys_int64s=[1, 2, 3], values_int64s=[1]), inputs=INTS, outputs=INT_ANSWER
        ),
        LOAD,
    ),
    File(
        "categories by the million",
        classical(ml("OneHotEncoder", "x", "y", cats_int64s=list(range(1_000_000))), inputs=INTS, outputs=ANY_SHAPE),
        SERVED,
    ),
    File("a scale for other columns", classical(ml("Scaler", "x", "y", offset=[0.0] * 99, scale=[1.0] * 98)), LOAD),
    File(
        "n-grams out of their pool",
        nodes(
            node(
                "TfIdfVectorizer",
                "x",
                "y",
                mode="TF",
                min_gram_length=1,
                max_gram_length=9,
                max_skip_count=1 << 40,
                ngram_counts=[0, 99, -5],
                ngram_indexes=[1 << 40, -3],
                pool_int64s=[1, 2],
            ),
            inputs=INTS,
            outputs=ANY_SHAPE,
        ),
        LOAD,
    ),
    File(
        "a patient pattern",
        nodes(
            node("RegexFullMatch", "x", "y", pattern="(a*)*" * 20 + "b"),
            inputs={"x": (STRING, [None, 1])},
            outputs={"y": (BOOL, [None, 1])},
        ),
        SERVED,
    ),
    File(
        "a pattern of 10^9 repeats",
        nodes(
            node("RegexFullMatch", "x", "y", pattern="((a{1000}){1000}){1000}"),
            inputs={"x": (STRING, [None, 1])},
            outputs={"y": (BOOL, [None, 1])},
        ),
        LOAD,
    ),
    File(
        "a convolution with a kernel of 2^60",
        nodes(
            node("Conv", "x w", "y", kernel_shape=[HUGE, 1]),
            inputs=FOUR,
            outputs=ANY_SHAPE,
            w=np.ones((1, 1, 3, 3), np.float32),
        ),
        SERVED,
    ),
    File(
        "a convolution in 0 groups",
        nodes(node("Conv", "x w", "y", group=0), inputs=FOUR, outputs=ANY_SHAPE, w=np.ones((1, 1, 3, 3), np.float32)),
        SERVED,
    ),
    File(
        "a convolution in steps of 0",
        nodes(
            node("Conv", "x w", "y", strides=[0, 0]),
            inputs=FOUR,
            outputs=ANY_SHAPE,
            w=np.ones((1, 1, 3, 3), np.float32),
        ),
        LOAD,
    ),
    File(
        "a convolution with pads of 2^60",
        nodes(
            node("Conv", "x w", "y", pads=[HUGE] * 4),
            inputs=FOUR,
            outputs=ANY_SHAPE,
            w=np.ones((1, 1, 3, 3), np.float32),
        ),
        SERVED,
    ),
    File(
        "a convolution with pads of -2^60",
        nodes(
            node("Conv", "x w", "y", pads=[-HUGE] * 4),
            inputs=FOUR,
            outputs=ANY_SHAPE,
            w=np.ones((1, 1, 3, 3), np.float32),
        ),
        LOAD,
    ),
    File(
        "a convolution with weights of no dimensions",
        nodes(node("Conv", "x w", "y"), inputs=FOUR, outputs=ANY_SHAPE, w=np.array(1, np.float32)),
        LOAD,
    ),
    File(
        "a convolution of dilation 2^40",
        nodes(
            node("Conv", "x w", "y", dilations=[1 << 40] * 2),
            inputs=FOUR,
            outputs=ANY_SHAPE,
            w=np.ones((1, 1, 3, 3), np.float32),
        ),
        SERVED,
    ),
    File(
        "a pool of 2^40",
        nodes(
            node("MaxPool", "x", "y", kernel_shape=[1 << 40, 1 << 40], pads=[1 << 39] * 4),
            inputs=FOUR,
            outputs=ANY_SHAPE,
        ),
        SERVED,
    ),
    File(
        "a pool of nothing",
        nodes(node("AveragePool", "x", "y", kernel_shape=[0, 0]), inputs=FOUR, outputs=ANY_SHAPE),
        LOAD,
    ),
    File(
        "an unpool out of its image",
        nodes(
            node("MaxUnpool", "x i", "y", kernel_shape=[2, 2], strides=[2, 2]),
            inputs={"x": (FLOAT, [1, 1, 2, 2])},
            outputs=ANY_SHAPE,
            i=np.full((1, 1, 2, 2), 1 << 40),
        ),
        SERVED,
    ),
    File(
        "columns to an image of another size",
        nodes(
            node("Col2Im", "x i b", "y"),
            inputs={"x": (FLOAT, [1, 5, 5])},
            outputs=ANY_SHAPE,
            i=size(1 << 31, 1 << 31),
            b=size(1, 5),
        ),
        SERVED,
    ),
    File(
        "boxes by the million",
        nodes(
            helper.make_node("NonMaxSuppression", ["b", "s", "n"], ["y"]),
            inputs={**X, "b": (FLOAT, [1, None, 4]), "s": (FLOAT, [1, 1, None])},
            outputs={"y": (INT64, None)},
            n=size(HUGE),
        ),
        SERVED,
    ),
    File(
        "a grid of NaN",
        nodes(
            node("GridSample", "x g", "y"), inputs=FOUR, outputs=ANY_SHAPE, g=np.full((1, 2, 2, 2), np.nan, np.float32)
        ),
        SERVED,
    ),
    File(
        "a slice in steps of 0",
        nodes(node("Slice", "x a b c d", "y"), outputs=ANY_SHAPE, a=size(0), b=size(9), c=size(0), d=size(0)),
        SERVED,
    ),
    File(
        "a slice along dimension 99",
        nodes(node("Slice", "x a b c", "y"), outputs=ANY_SHAPE, a=size(0), b=size(9), c=size(99)),
        LOAD,
    ),
    File("a split into -1", nodes(node("Split", "x s", "y z"), outputs=ANY_SHAPE, s=size(-1, 2)), SERVED),
    File("a sum along axis 99", nodes(node("ReduceSum", "x a", "y"), outputs=ANY_SHAPE, a=size(99)), LOAD),
    File("a transpose by what is none", nodes(node("Transpose", "x", "y", perm=[0, 0]), outputs=ANY_SHAPE), LOAD),
    File("a transpose by 99", nodes(node("Transpose", "x", "y", perm=[99, -99]), outputs=ANY_SHAPE), LOAD),
    File("an axis of 2^60", nodes(node("Softmax", "x", "y", axis=HUGE)), SERVED),
    File("a Concat along axis -2^60", nodes(node("Concat", "x x", "y", axis=-HUGE)), SERVED),
    File(
        "an Einsum of nonsense",
        nodes(node("Einsum", "x x", "y", equation="ij,k...l->" + "z" * 1000), outputs=ANY_SHAPE),
        LOAD,
    ),
    File("blocks of 0", nodes(node("DepthToSpace", "x", "y", blocksize=0), inputs=FOUR, outputs=ANY_SHAPE), LOAD),
    File(
        "blocks of 2^62", nodes(node("SpaceToDepth", "x", "y", blocksize=1 << 62), inputs=FOUR, outputs=ANY_SHAPE), LOAD
    ),
    File(
        "quantization in blocks of 0",
        nodes(
            node("DequantizeLinear", "q s", "d", block_size=0, axis=9),
            node("ReduceMax", "d", "m", keepdims=0),
            node("Add", "x m", "y"),
            q=np.zeros((2, 2), np.int8),
            s=np.ones((1, 1), np.float32),
        ),
        SERVED,
    ),
    File(
        "constants divided by 0",
        nodes(node("Div", "a b", "c"), node("Add", "x c", "y"), inputs=INTS, outputs=INT_ANSWER, a=size(1), b=size(0)),
        LOAD,
    ),
    File(
        "the smallest number divided by -1",
        nodes(
            node("Div", "a b", "c"),
            node("Add", "x c", "y"),
            inputs=INTS,
            outputs=INT_ANSWER,
            a=size(np.iinfo(np.int64).min),
            b=size(-1),
        ),
        CRASH,
    ),
    File("input divided by 0", nodes(node("Div", "x b", "y"), inputs=INTS, outputs=INT_ANSWER, b=size(0)), LOAD),
    File("a remainder of 0", nodes(node("Mod", "x b", "y"), inputs=INTS, outputs=INT_ANSWER, b=size(0)), LOAD),
    File(
        "a recurrent layer with weights that are not there",
        recurrent("LSTM", 4, w=np.zeros((1, 1, 1), np.float32)),
        SERVED,
    ),
    File("a recurrent layer with other gates", recurrent("GRU", 3, r=np.zeros((1, 99, 2), np.float32)), SERVED),
    File("an attribute of another type", nodes(node("Softmax", "x", "y", axis="first")), LOAD),
    File("an attribute twice", nodes(helper.make_node("Softmax", ["x"], ["y"], axis=0), node("Neg", "x", "z")), SERVED),
    # What a client could bring about.
    *(
        File(
            f"{operator} of two inputs of {kind}",
            nodes(
                node(operator, "x z", "y"),
                inputs={"x": (DATATYPES[kind], [None, 1]), "z": (DATATYPES[kind], [None, 1])},
                outputs={"y": (DATATYPES[kind], [None, 1])},
            ),
            CRASH if operator == "Div" else SERVED,
        )
        for operator in ("Div", "Mod")
        for kind in ("INT32", "INT64")
    ),
    File(
        "Div of two columns",
        nodes(
            node("Split", "x", "a b", axis=1, num_outputs=2),
            node("Div", "a b", "y"),
            inputs={"x": (INT64, [None, 2])},
            outputs=INT_ANSWER,
        ),
        CRASH,
    ),
    File("Div by -1", nodes(node("Div", "x b", "y"), inputs=INTS, outputs=INT_ANSWER, b=size(-1)), CRASH),
    # What only several rows, or only some values, bring about.
    File("a loop without end for more than one row", endless_branch("many"), TIME),
    File("more memory than there is for more than one row", greedy_branch("many"), MEMORY),
    File("a loop without end for large values", endless_branch("100"), TIME),
    File("more memory than there is for large values", greedy_branch("100"), MEMORY),
]
