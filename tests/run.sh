#!/usr/bin/env bash
# Runs cmocka binaries, as many at once as there are cores, reports them in the order given, and ends with what failed, once
# more, and one line: N passed, N failed, N skipped.
set -u
export STROBE_DB=${STROBE_DB-/nonexistent/tunings.txt} # configs are those of the heuristic
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# run NUMBER TEST: output to $logs/NUMBER; then exit status and milliseconds to $logs/NUMBER.end
run() {
  local start=$(date +%s%N) rc
  timeout 300 "$2" >"$logs/$1" 2>&1 </dev/null
  rc=$?
  echo "$rc $((($(date +%s%N) - start) / 1000000))" >"$logs/$1.new" && mv "$logs/$1.new" "$logs/$1.end"
}

passed=0 failed=0 skipped=0 failures=()
# why NUMBER LINES: the end of the output of a test that failed
why() {
  grep -vE '^\[( RUN      |       OK |==========|  PASSED  |  SKIPPED )' "$logs/$1" | tail -"$2" | sed 's/^/  /'
}

# report NUMBER TEST: one line; the end of its output if it failed
report() {
  local log=$logs/$1 rc ms p f s
  read -r rc ms <"$log.end"
  p=$(grep -c '^\[       OK \]' "$log")
  f=$(grep -E '^\[  FAILED  \] [^0-9]' "$log" | sort -u | wc -l)
  s=$(grep -E '^\[  SKIPPED \] [^0-9]' "$log" | sort -u | wc -l)
  [ "$rc" -ne 0 ] && [ "$f" -eq 0 ] && f=1
  printf '%-34s %3d passed %3d failed %3d skipped  %6d ms\n' "${2#*/}" "$p" "$f" "$s" "$ms"
  if [ "$rc" -ne 0 ]; then
    [ "$rc" -eq 124 ] && echo "  stopped after 300 s"
    why "$1" 40
    failures+=("$1")
  else
    grep -E '^(could not check|note:)' "$log" | sed 's/^/  /'
  fi
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

tests=("$@") reported=0
report_ended() {
  while [ -e "$logs/$reported.end" ]; do report "$reported" "${tests[reported++]}"; done
}
for i in "${!tests[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; report_ended; done
  run "$i" "${tests[i]}" &
done
wait
report_ended
for i in "${failures[@]}"; do
  echo "failed: ${tests[i]}"
  why "$i" 12
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
