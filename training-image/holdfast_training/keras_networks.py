"""Perceptrons of Keras on TensorFlow.

Loaded only when a run asks for one of them: the standard image has neither. What was learned is kept in arrays.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # whose kernels round as the processor at hand likes best
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from sklearn.exceptions import ConvergenceWarning

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

    _loss: ClassVar[Any]
    """Of a batch, summed over its rows."""

    def _learn(self, features: Floats, target: npt.NDArray[Any], outputs: int) -> None:
        self._validate_params()
        self.n_features_in_ = features.shape[1]
        network = self._network(outputs)
        self._descend(network, tf.constant(features, tf.float32), tf.constant(target))
        learned = [variable.numpy() for variable in network.trainable_variables]
        self.coefs_, self.intercepts_ = learned[::2], learned[1::2]

    def _network(self, outputs: int) -> Any:
        seeds = self._random(0)
        layers: list[Any] = [keras.Input((self.n_features_in_,), dtype="float32")]
        for size in self._hidden():
            layers.append(_dense(size, seeds, _ACTIVATIONS[self.activation]))
            layers += [keras.layers.Dropout(self.dropout, seed=0)] if self.dropout else []
        return keras.Sequential([*layers, _dense(outputs, seeds, None)])

    def _descend(self, network: Any, inputs: Any, target: Any) -> None:
        order = self._random(0, 1).permutation(len(inputs))
        held = order[: math.ceil(len(order) * self.validation_fraction)]
        learned = order[len(held) :]
        if not len(learned):
            raise ValueError("validation_fraction leaves no row to learn from")
        weights = network.trainable_variables
        optimizer = keras.optimizers.AdamW(self.learning_rate_init, weight_decay=self.alpha)
        optimizer.build(weights)

        @_compiled
        def step(rows: Any) -> None:
            with tf.GradientTape() as tape:
                loss = self._loss(tf.gather(target, rows), network(tf.gather(inputs, rows), training=True))
                loss /= tf.cast(tf.size(rows), tf.float32)
            optimizer.apply(tape.gradient(loss, weights), weights)

        @_compiled
        def judge(rows: Any) -> Any:
            return self._loss(tf.gather(target, rows), network(tf.gather(inputs, rows), training=False))

        best, goal, waited, kept = math.inf, math.inf, 0, None
        for epoch in range(1, self.max_iter + 1):
            self.n_iter_ = epoch
            random = self._random(epoch)
            for layer in network.layers:
                if isinstance(layer, keras.layers.Dropout):
                    layer.seed_generator.state.assign(random.integers(2**31, size=2))
            for rows in _parts(random.permutation(learned), self.batch_size):
                step(rows)
            reached = sum(float(judge(rows)) for rows in _parts(held, _ROWS_AT_ONCE)) / len(held)
            if reached < best:
                best, kept = reached, [variable.numpy() for variable in weights]
            goal, waited = (reached, 0) if reached < goal - self.tol else (goal, waited + 1)
            if waited >= self.n_iter_no_change:
                break
        else:
            warnings.warn(f"max_iter ({self.max_iter}) reached", ConvergenceWarning, stacklevel=2)
        if kept is None:
            raise ValueError("the loss is not a number; scale the features or lower learning_rate_init")
        for variable, value in zip(weights, kept, strict=True):
            variable.assign(value)

    def _random(self, *which: int) -> np.random.Generator:
        return np.random.default_rng([self.random_state, *which])

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


class KerasMLPRegressor(PerceptronRegressor, _Keras):
    """A regressor of Keras."""

    _loss = keras.losses.MeanSquaredError(reduction="sum", dtype="float32")


def _dense(size: int, seeds: np.random.Generator, activation: Any) -> Any:
    drawn = keras.initializers.GlorotUniform(seed=int(seeds.integers(2**31)))
    return keras.layers.Dense(size, activation=activation, kernel_initializer=drawn, dtype="float32")


def _compiled(of_rows: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One graph for any number of rows: the last batch of an epoch is smaller."""
    graph: Callable[[Any], Any] = tf.function(of_rows, input_signature=[tf.TensorSpec([None], tf.int64)])
    return graph


def _parts(rows: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
