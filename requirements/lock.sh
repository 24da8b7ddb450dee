#!/bin/sh
# Resolve the dependency ranges of every pyproject.toml into lock files with hashes.
# dev.txt is the union that tests run with; the image locks are cut from the same versions.
set -eu
cd "$(dirname "$0")/.."
compile() {
    out=$1
    shift
    echo "requirements/$out"
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-annotate --no-header --no-emit-package holdfast-bundle "$@" -o "requirements/$out"
}
compile dev.txt pyproject.toml --group dev serving-image/pyproject.toml --extra grpcio \
    training-image/pyproject.toml devcluster/pyproject.toml
compile operator.txt pyproject.toml -c requirements/dev.txt
compile serving.txt serving-image/pyproject.toml -c requirements/dev.txt
compile training.txt training-image/pyproject.toml -c requirements/dev.txt
# What the image with TensorFlow has beside that. TensorFlow asks for three packages that it only builds with.
beside=$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' requirements/training.txt)
# shellcheck disable=SC2086 # they are words
compile training-tensorflow.txt training-image/pyproject.toml --extra tensorflow -c requirements/dev.txt $beside \
    --no-emit-package libclang --no-emit-package setuptools --no-emit-package wheel
compile triton-client.txt --group pyproject.toml:triton-client
compile mlflow.txt --group pyproject.toml:mlflow
compile schemathesis.txt --group pyproject.toml:schemathesis
compile fuzz.txt --group pyproject.toml:fuzz

compile bench-evidently.txt --group pyproject.toml:bench-evidently
compile bench-nannyml.txt --group pyproject.toml:bench-nannyml --no-emit-package nvidia-nccl-cu12 # for several GPUs
compile bench-river.txt --group pyproject.toml:bench-river

# The peers of the serving benchmark do not agree on versions. All have the runtime that we have.
runtime=$(mktemp)
trap 'rm -f "$runtime"' EXIT
sed -n 's/^\(onnxruntime==[^ ]*\).*/\1/p' requirements/serving.txt >"$runtime"
for peer in bentoml fastapi kserve litserve mlserver; do
    compile "bench-$peer.txt" --group "pyproject.toml:bench-$peer" -c "$runtime"
done
