# The trainer with Debian's PyTorch, old and without CUDA, in place of wheels from an index: for tests, and for clusters
# that have nothing else. Built by `python -m holdfast_devcluster build-image training-torch`.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
ARG TRAINING_IMAGE=localhost/holdfast-training:dev

FROM ${TRAINING_IMAGE} AS training

FROM ${BASE_IMAGE}
# It needs three hundred other packages, OpenCV's among them. All come from a folder, and nothing else is asked for any.
RUN --mount=type=bind,source=.build/wheels/training-torch/debian,target=/packages \
    echo 'deb [trusted=yes] file:/packages ./' >/tmp/sources.list \
    && apt="apt-get -qq -o Dir::Etc::sourcelist=/tmp/sources.list -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists=/tmp/lists -o Dir::Cache=/tmp/cache -o APT::Sandbox::User=root \
        -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Options::=--path-exclude=/usr/share/doc/* \
        -o Dpkg::Options::=--path-exclude=/usr/share/man/* -o Dpkg::Options::=--path-exclude=/usr/share/locale/*" \
    && mkdir -p /tmp/lists/partial /tmp/cache/archives/partial \
    && $apt update \
    && DEBIAN_FRONTEND=noninteractive $apt install --yes --no-install-recommends python3-torch >/dev/null \
    && rm -rf /tmp/sources.list /tmp/lists /tmp/cache
# After what takes minutes to install and seldom changes. Debian's folder is looked at last.
COPY --from=training /opt/holdfast /opt/holdfast
RUN echo /usr/lib/python3/dist-packages >/opt/holdfast/lib/python3.11/site-packages/debian.pth
ENV PATH=/opt/holdfast/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp LD_LIBRARY_PATH=/opt/holdfast/lib \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "holdfast_training"]
