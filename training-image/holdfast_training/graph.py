"""ONNX nodes in the making, each with one output and a name of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper


class Graph:
    """Every name begins with `prefix`."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._prefix = prefix

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """The name of its output."""
        name = f"{self._prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def constant(self, values: npt.NDArray[Any]) -> str:
        """The name of a tensor with these values."""
        name = f"{self._prefix}c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name
