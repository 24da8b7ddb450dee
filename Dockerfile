# The operator. Built by `python -m holdfast_devcluster build-image operator`, which first collects the wheels that
# the lock file names in .build/wheels/operator: the build itself needs no network.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS dependencies
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/holdfast
# The lock is copied and the wheels are only mounted: a builder that caches by copied content sees every change.
COPY .build/wheels/operator/requirements.txt /build/
RUN --mount=type=bind,source=.build/wheels/operator/locked,target=/wheels \
    /build/bin/pip --python /opt/holdfast/bin/python install --no-index --find-links /wheels --no-deps \
        --require-hashes --no-cache-dir --no-compile -q -r /build/requirements.txt \
    && find /opt/holdfast/lib -depth -type d \( -name tests -o -path '*/onnx/backend/test' \) -exec rm -r {} + \
    && /opt/holdfast/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/holdfast/lib

FROM dependencies AS package
COPY .build/wheels/operator/ours /wheels
RUN /build/bin/pip install --no-index --no-deps --no-cache-dir --no-compile -q --target /opt/ours /wheels/*.whl \
    && /opt/holdfast/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/ours

FROM ${BASE_IMAGE}
# What the base brings along to install more.
RUN rm -rf /usr/local/lib/python3.11/ensurepip /usr/local/lib/python3.11/site-packages/* /usr/local/bin/pip* \
        /usr/lib/python3.11/ensurepip /usr/share/python-wheels
COPY --from=dependencies /opt/holdfast /opt/holdfast
COPY --from=package /opt/ours /opt/holdfast/lib/python3.11/site-packages
ENV PATH=/opt/holdfast/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "holdfast"]
