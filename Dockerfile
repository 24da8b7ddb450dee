# The operator. Built by `python -m holdfast_devcluster build-image operator`, which first collects the wheels that
# the lock file names in .build/wheels/operator: the build itself needs no network.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS package
COPY .build/wheels/operator/ours /wheels
# Pure Python wheels, for which unpacking is installing.
RUN for wheel in /wheels/*.whl; do python3 -m zipfile --extract "$wheel" /opt/ours; done \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/ours

FROM ${BASE_IMAGE}
# The lock is copied, the wheels are only mounted: not every builder's cache looks into mounts.
COPY .build/wheels/operator/requirements.txt /opt/holdfast/
# At the end all goes that could install more, also what the base brings along.
RUN --mount=type=bind,source=.build/wheels/operator/locked,target=/wheels \
    python3 -m venv --without-pip /opt/holdfast \
    && python3 -m venv /tmp/build \
    && /tmp/build/bin/pip --python /opt/holdfast/bin/python install --no-index --find-links /wheels --no-deps \
        --require-hashes --no-cache-dir --no-compile -q -r /opt/holdfast/requirements.txt \
    && find /opt/holdfast/lib -depth -type d \( -name tests -o -path '*/onnx/backend/test' \) -exec rm -r {} + \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/holdfast/lib \
    && rm -rf /tmp/build /usr/local/lib/python3.11/ensurepip /usr/local/lib/python3.11/site-packages/* \
        /usr/local/bin/pip* /usr/lib/python3.11/ensurepip /usr/share/python-wheels
COPY --from=package /opt/ours /opt/holdfast/lib/python3.11/site-packages
ENV PATH=/opt/holdfast/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "holdfast"]
