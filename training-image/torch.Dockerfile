# The trainer with PyTorch, for the estimators that have its name: docs/operations.md, "The image with PyTorch".
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
ARG TRAINING_IMAGE=localhost/holdfast-training:dev

FROM ${BASE_IMAGE} AS torch
# Where pip finds wheels for the CPU; its default has those with CUDA, gigabytes that no trainer uses.
ARG TORCH_INDEX
ARG TORCH="torch>=2.3,<3"
RUN python3 -m pip install --index-url "${TORCH_INDEX:?name an index with wheels of PyTorch for the CPU}" \
        --target /opt/torch --only-binary :all: --no-cache-dir --no-compile -q "${TORCH}" \
    && echo /opt/torch >/opt/torch.pth

FROM ${TRAINING_IMAGE}
COPY --from=torch /opt/torch /opt/torch
# Looked at last: of what both have, the trainer's own locked version counts.
COPY --from=torch /opt/torch.pth /opt/holdfast/lib/python3.11/site-packages/
