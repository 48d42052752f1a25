#!/bin/sh
# Checks and times every CUDA kernel in one call, on a machine with an H100 or H200 and torch:
#   python3 tests/gpu/build.py build/strobe build/gpu     # where nvcc is: emits and compiles the kernels
#   tests/gpu/all.sh build/strobe build/gpu examples/data # where the GPU is: nothing is installed there
# The first argument may come from `make TCC=0`. Ends with 1 if a check failed.
set -u
strobe=$1 folder=$2 data=${3-} here=$(dirname "$0") log=$(mktemp)
{
  "$strobe" doctor
  for problem in d64:bf16:b2h6/2q384k256 d64:bf16:causal:b2h2q300k300 d64:f16:causal:b1h4q513k500 d128:bf16:b2h6/1q203k113 d128:bf16:causal:b2h6/2q239k301 \
    d128:f16:causal_top_left:b1h2q300k200 d192:bf16:b1h2q200k300 d256:bf16:causal:b1h2q300k300 d256:f16:b1h2q130k200; do
    "$strobe" verify "$problem" --target sm90a --kind all
    "$strobe" verify "$problem" --target sm90a --kind all --set block_m=128 # so few tiles are of 64
  done
  for problem in d64:bf16:b2h6/2q384k256 d64:f16:causal:b1h4q513k500; do
    "$strobe" verify "$problem" --target sm90a --kind all --set block_m=256
  done
  "$strobe" verify d128:bf16:b2h4/2q70k0 d64:f16:causal:b1h2q9k0 --target sm90a
  [ -z "$data" ] || python3 "$here/files.py" "$strobe" "$data"
  "$folder/owned"
  "$strobe" bench --jit --runs 5 d64:bf16 d128:bf16 d128:bf16:causal d256:bf16:causal --target sm90a
  "$strobe" bench --suite hopper --runs 5 --plot "$folder/hopper.svg"
  python3 "$here/run.py" "$folder" check 2
  python3 "$here/run.py" "$folder" race 1000
  python3 "$here/accuracy.py" "$folder" $data
  python3 "$here/run.py" "$folder" time
  python3 "$here/run.py" "$folder" wide
  if command -v compute-sanitizer >/dev/null; then
    for problem in d64:bf16:b1h2q70k1 d128:bf16:causal:b1h4/2q200k300 d256:f16:causal:b1h2q130k130; do
      compute-sanitizer --tool memcheck "$strobe" verify "$problem" --target sm90a | tail -1
    done
  else
    echo "could not check: memory accesses (compute-sanitizer is not installed)"
  fi
} 2>&1 | tee "$log"
if grep -q -E '^FAIL|^strobe: |[1-9][0-9]* failed|Traceback|CUDA_ERROR|SUMMARY: [1-9]' "$log"; then status=1; else status=0; fi
rm -f "$log"
exit $status
