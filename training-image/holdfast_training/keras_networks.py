"""Perceptrons of Keras on TensorFlow.

Loaded only when a run asks for one of them: the standard image has neither. What was learned is kept in arrays.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # whose kernels round as the processor at hand likes best
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from holdfast_training.epochs import Arrays, Checkpoint, restored
from holdfast_training.fitting import Course
from holdfast_training.perceptrons import (
    Floats,
    Perceptron,
    PerceptronClassifier,
    PerceptronRegressor,
    Singles,
)

# For the whole process, before anything is computed: on more threads TensorFlow adds up in another order.
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.experimental.enable_op_determinism()

_ACTIVATIONS = {"relu": tf.nn.relu, "tanh": tf.math.tanh, "logistic": tf.math.sigmoid}
_ROWS_AT_ONCE = 1024


class _Keras(Perceptron):
    """Learns with Keras, on one thread. All that is drawn comes from the seed and the epoch's number."""

    course: Course = Course()
    _loss: ClassVar[Any]
    """Of a batch, summed over its rows."""
    _target: ClassVar[Any]
    """What it is told of them."""

    def _learn(self, features: Floats, target: npt.NDArray[Any], outputs: int) -> None:
        self._validate_params()
        self.n_features_in_ = features.shape[1]
        layers = _Layers(self.n_features_in_, tuple(self._hidden()), self.activation, self.dropout, outputs)
        learner = _learner(layers, self.alpha, self._loss, self._target)
        learner.begin(self.random_state, self.learning_rate_init)
        kept = self._descend(learner, features.astype(np.float32), target)
        self.coefs_, self.intercepts_ = kept[::2], kept[1::2]

    def _descend(self, learner: _Learner, features: Singles, target: npt.NDArray[Any]) -> list[Singles]:
        """The weights after the best epoch."""
        order = _random(self.random_state, 0, 1).permutation(len(features))
        held = order[: math.ceil(len(order) * self.validation_fraction)]
        learned = order[len(held) :]
        if not len(learned):
            raise ValueError("validation_fraction leaves no row to learn from")
        checkpoint = Checkpoint(self.course.folder, self, (features, target, *learner.weights().values()))
        state = restored(checkpoint.content(), learner.bring)
        inputs, truth = tf.constant(features), tf.constant(target)
        while state.goes_on(self):
            state.epoch += 1
            self.course.say(f"epoch {state.epoch} of at most {self.max_iter}")
            random = _random(self.random_state, state.epoch)
            learner.leave_out(random)
            for rows in _parts(random.permutation(learned), self.batch_size):
                learner.step(rows, inputs, truth)
            lost = sum(float(learner.lost(rows, inputs, truth)) for rows in _parts(held, _ROWS_AT_ONCE))
            state.judge(lost / len(held), self, learner.weights)
            checkpoint.keep(state, learner.arrays)
        self.n_iter_ = state.epoch
        return [*state.ended(self).values()]

    def _scores(self, features: Floats) -> Singles:
        values = tf.constant(features, tf.float32)
        for layer, (weights, offsets) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
            values = _ACTIVATIONS[self.activation](values) if layer else values
            values = tf.linalg.matmul(values, weights) + offsets
        scores: Singles = values.numpy()
        return scores


class KerasMLPClassifier(PerceptronClassifier, _Keras):
    """A classifier of Keras."""

    _loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum", dtype="float32")
    _target = tf.TensorSpec([None], tf.int64)


class KerasMLPRegressor(PerceptronRegressor, _Keras):
    """A regressor of Keras."""

    _loss = keras.losses.MeanSquaredError(reduction="sum", dtype="float32")
    _target = tf.TensorSpec([None, 1], tf.float32)


@dataclass(frozen=True, slots=True)
class _Layers:
    inputs: int
    hidden: tuple[int, ...]
    activation: str
    dropout: float
    outputs: int


class _Learner:
    """A network, its optimizer and the graphs of both, for one fit after the other."""

    def __init__(self, layers: _Layers, alpha: float, loss: Any, target: Any) -> None:
        """loss: of a batch, summed over its rows. target: a TensorSpec of what it is told of them."""
        network = keras.Sequential([keras.Input((layers.inputs,), dtype="float32")])
        for size in layers.hidden:
            network.add(keras.layers.Dense(size, _ACTIVATIONS[layers.activation], dtype="float32"))
            if layers.dropout:
                network.add(keras.layers.Dropout(layers.dropout, seed=0, dtype="float32"))
        network.add(keras.layers.Dense(layers.outputs, dtype="float32"))
        self._network, self._weights = network, network.trainable_variables
        self._optimizer = keras.optimizers.AdamW(weight_decay=alpha)
        self._optimizer.build(self._weights)

        def step(rows: Any, inputs: Any, truth: Any) -> None:
            with tf.GradientTape() as tape:
                total = loss(tf.gather(truth, rows), network(tf.gather(inputs, rows), training=True))
                mean = total / tf.cast(tf.size(rows), tf.float32)
            self._optimizer.apply(tape.gradient(mean, self._weights), self._weights)

        def lost(rows: Any, inputs: Any, truth: Any) -> Any:
            return loss(tf.gather(truth, rows), network(tf.gather(inputs, rows), training=False))

        # One graph each for any number of rows: the last batch of an epoch is smaller.
        takes = [tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, layers.inputs], tf.float32), target]
        self.step = tf.function(step, input_signature=takes)
        self.lost = tf.function(lost, input_signature=takes)

    def begin(self, seed: int, learning_rate: float) -> None:
        """With fresh weights, and an optimizer that has seen nothing."""
        random = _random(seed, 0)
        for variable in self._optimizer.variables:
            variable.assign(np.zeros(variable.shape))
        self._optimizer.learning_rate = learning_rate
        for weights, offsets in zip(self._weights[::2], self._weights[1::2], strict=True):
            draw = keras.initializers.GlorotUniform(seed=int(random.integers(2**31)))
            weights.assign(draw(weights.shape, "float32"))
            offsets.assign(np.zeros(offsets.shape))

    def leave_out(self, random: np.random.Generator) -> None:
        """Draw which neurons are dropped from now on."""
        for layer in self._network.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.seed_generator.state.assign(random.integers(2**31, size=2))

    def weights(self) -> Arrays:
        """Copies of each layer's weights and offsets."""
        return {str(place): np.array(variable) for place, variable in enumerate(self._weights)}

    def arrays(self) -> Arrays:
        """All that a step changes."""
        return {f"learner.{place}": np.array(variable) for place, variable in enumerate(self._variables())}

    def bring(self, arrays: Arrays) -> None:
        """To where `arrays` was called. Raises KeyError before anything is changed."""
        values = [arrays[f"learner.{place}"] for place, _ in enumerate(self._variables())]
        for variable, value in zip(self._variables(), values, strict=True):
            variable.assign(value)

    def _variables(self) -> list[Any]:
        return [*self._weights, *self._optimizer.variables]


@lru_cache(maxsize=1)
def _learner(layers: _Layers, alpha: float, loss: Any, target: Any) -> _Learner:
    """TensorFlow takes longer to make graphs than many a fit takes, and frees them only when the process ends: the fits
    of a trial share theirs."""
    return _Learner(layers, alpha, loss, target)


def _random(*seeds: int) -> np.random.Generator:
    return np.random.default_rng(seeds)


def _parts(rows: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
