#!/usr/bin/env bash
# Runs cmocka binaries and ends with one line: N passed, N failed, N skipped. Arguments: test binaries, in order.
set -u
export STROBE_DB=${STROBE_DB-/nonexistent/tunings.txt} # configs are those of the heuristic
passed=0 failed=0 skipped=0
for t in "$@"; do
  name=${t#*/}
  start=$(date +%s%N)
  out=$(timeout 300 "$t" 2>&1 </dev/null)
  rc=$?
  p=$(grep -c '^\[       OK \]' <<<"$out")
  f=$(grep -E '^\[  FAILED  \] [^0-9]' <<<"$out" | sort -u | wc -l)
  s=$(grep -E '^\[  SKIPPED \] [^0-9]' <<<"$out" | sort -u | wc -l)
  [ "$rc" -ne 0 ] && [ "$f" -eq 0 ] && f=1
  printf '%-34s %3d passed %3d failed %3d skipped  %6d ms\n' "$name" "$p" "$f" "$s" $((($(date +%s%N) - start) / 1000000))
  if [ "$rc" -ne 0 ]; then
    [ "$rc" -eq 124 ] && echo "  stopped after 300 s"
    grep -vE '^\[( RUN      |       OK |==========|  PASSED  )' <<<"$out" | tail -40 | sed 's/^/  /'
  else
    grep -E '^(could not check|note:)' <<<"$out" | sed 's/^/  /'
  fi
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
