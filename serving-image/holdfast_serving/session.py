"""A loaded model: the one module that knows ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Self

import onnxruntime

from holdfast_bundle.errors import BundleError
from holdfast_serving.inference import Array
from holdfast_serving.signature import Signature, of_runtime

onnxruntime.set_default_logger_severity(3)


class Model:
    """A session, ready to run. `run` may be called from one thread at a time and lets go of the GIL.

    Attributes:
        signature: as the runtime describes it, or richer when a manifest has been merged in.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.signature: Signature = of_runtime(session.get_inputs(), session.get_outputs())
        self._outputs = [tensor.name for tensor in self.signature.outputs]
        self._options = onnxruntime.RunOptions()

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Arrays per output.

        Raises:
            TimeoutError: it was stopped.
            RuntimeError, or another exception of the runtime: the model cannot work on this input. Its text can
                hold the server's paths and the input's values.
        """
        try:
            outputs: list[Array] = self._session.run(self._outputs, feeds, self._options)
        except Exception as error:
            if self._options.terminate:
                self._options.terminate = False
                raise TimeoutError("the run was stopped") from error
            raise
        return outputs

    def twin(self) -> Self:
        """Another one with the same weights, which may run at the same time."""
        made = copy(self)
        made._options = onnxruntime.RunOptions()
        return made

    def stop(self) -> None:
        """Have the run that is under way end with the node that it is at. For another thread to call."""
        self._options.terminate = True


def load(path: Path, threads: int) -> Model:
    """Load an ONNX file, whose external data has been checked.

    Args:
        threads: that one run may use.

    Raises:
        BundleError: `Invalid`, with the runtime's words.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Threads that spin while they wait burn the CPU quota that the next request needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Never guess from the content: other formats have other loaders, and nothing has checked such a file.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        # Its own fallback would print to stdout and try once more.
        return Model(onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"], enable_fallback=0))
    except BundleError:
        raise
    except Exception as error:
        raise BundleError("Invalid", f"the model cannot be loaded: {_words(error, path)}") from error


def _words(error: Exception, path: Path) -> str:
    """The runtime's text without its places."""
    text = str(error).replace(str(path), path.name).replace(str(path.parent), "")
    lines = [line for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:500]
