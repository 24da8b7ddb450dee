# The trainer with TensorFlow, for the estimators of Keras. Built by `python -m holdfast_devcluster build-image
# training-tensorflow`; docs/operations.md, "The image with TensorFlow".
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
ARG TRAINING_IMAGE=localhost/holdfast-training:dev

FROM ${TRAINING_IMAGE} AS training

FROM ${BASE_IMAGE} AS packages
COPY .build/wheels/training-tensorflow/requirements.txt /opt/
RUN --mount=type=bind,source=.build/wheels/training-tensorflow/locked,target=/wheels \
    python3 -m venv /tmp/build \
    && /tmp/build/bin/pip install --no-index --find-links /wheels --no-deps --require-hashes --no-cache-dir --no-compile -q \
        --target /opt/packages -r /opt/requirements.txt \
    && rm -r /opt/packages/bin /opt/packages/tensorflow/include \
    && find /opt/packages -depth -type d -name tests -exec rm -r {} + \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/packages
# What a run says of its lock file is then true of all its packages.
COPY --from=training /opt/holdfast/requirements.txt /opt/training.txt
RUN cat /opt/training.txt >>/opt/requirements.txt

FROM training
COPY --from=packages /opt/packages /opt/holdfast/lib/python3.11/site-packages
COPY --from=packages /opt/requirements.txt /opt/holdfast/
