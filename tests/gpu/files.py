"""`strobe run` on files of tensors, GPU against the double-precision reference: files.py STROBE examples/data [TARGET].
Wants numpy."""
import os
import subprocess
import sys
import tempfile

import numpy as np

# problem, file stem, file of the expected lse (float64, from the unrounded tensors)
JOBS = [("d64:{}", "smollm2-l0", "lse"), ("d64:{}:causal", "smollm2-l0", "causal-lse")]


def rounded(x, dtype):
    """float32 to what the program reads: float16, or bf16 as uint16, to nearest even."""
    if dtype == "f16": return x.astype(np.float16)
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def run(strobe, problem, where, more):
    names = [os.path.join(where, x + ".npy") for x in ("q", "k", "v", "o", "lse")]
    subprocess.run([strobe, "run", problem, "--q", names[0], "--k", names[1], "--v", names[2], "-o", names[3], "--lse", names[4]] + more,
                   check=True, capture_output=True, text=True)
    return [np.load(x) for x in names[3:]]


def widen(x, dtype):
    """bf16 is stored as uint16."""
    if x.dtype == np.uint16 and dtype == "bf16": return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return x.view(np.float16).astype(np.float64) if x.dtype == np.uint16 else x.astype(np.float64)


def main():
    strobe, data = sys.argv[1:3]
    for template, stem, expected in JOBS:
        for dtype in ("bf16", "f16"):
            problem, path = template.format(dtype), os.path.join(data, stem)
            with tempfile.TemporaryDirectory() as where:
                for x in "qkv": np.save(os.path.join(where, x), rounded(np.load(f"{path}-{x}.npy"), dtype))
                try:
                    gpu = run(strobe, problem, where, ["--target", sys.argv[3] if len(sys.argv) > 3 else "sm90a"])
                    ref = run(strobe, problem, where, ["--backend", "reference"])
                except subprocess.CalledProcessError as e:
                    print(f"FAIL {problem} on {stem}: {e.stderr.strip()}")
                    continue
            o, want = widen(gpu[0], dtype), widen(ref[0], dtype)
            error = np.linalg.norm(o - want) / np.linalg.norm(want)
            lse = np.abs(gpu[1] - ref[1]).max()
            inputs = np.abs(gpu[1] - np.load(f"{path}-{expected}.npy")).max()
            ok = error < (4e-3 if dtype == "bf16" else 1e-3) and lse < 1e-3 and inputs < 0.1
            print(f"{'ok  ' if ok else 'FAIL'} {problem} on {stem}: o {error:.1e}, lse {lse:.1e}; lse against the unrounded tensors {inputs:.1e}")


main()
