#!/usr/bin/env bash
# The kernel suite under another Triton, laid over the environment that is active:
#
#     tests/kernels/with_triton.sh 3.6.0
#
# Everything else (torch, pytest, the package) stays as it is, so a difference is Triton's. NumPy
# comes along because the interpreter of 3.6 fails with 2.4 and later.
set -euo pipefail
version=${1:?usage: with_triton.sh VERSION [pytest arguments]}
shift
cd "$(dirname "$0")/../.."
overlay=$(mktemp -d)
trap 'rm -rf "$overlay"' EXIT
python -m pip install --quiet --disable-pip-version-check --no-deps --target "$overlay" \
    "triton==$version" "numpy<2.4"
export PYTHONPATH="$overlay" TRITON_CACHE_DIR="$overlay/cache"
python -c "import numpy, triton; print('triton', triton.__version__, 'numpy', numpy.__version__)"

# The interpreter of 3.6 itself takes scalars out of arrays in a way that NumPy deprecates.
TRITON_INTERPRET=1 python -m pytest -q -W ignore::DeprecationWarning -m interpreter \
    tests/kernels "$@"
python -m pytest -q -m 'slow or not slow' tests/kernels/aot "$@"
