#!/usr/bin/env python3
"""Times attention of torch, onnxruntime, openvino and numpy beside Strobe: one process, interleaved, one thread.

    $ STROBE_LIBRARY=../../build/libstrobe.so python3 peers.py                 # f32 and bf16, N = 512 and 2048
    $ STROBE_LIBRARY=../../build/libstrobe.so python3 peers.py --dtype f32 --n 512 --runs 21 --json > peers.json
    $ STROBE_LIBRARY=../../build/libstrobe.so python3 peers.py --decode       # one query, 8192 keys: GB/s of K and V
    $ STROBE_LIBRARY=../../build/libstrobe.so python3 peers.py --batch 64 --heads 12 --n 128 --d 64   # as encoders have them
    $ STROBE_LIBRARY=../../build/libstrobe.so python3 peers.py --check        # quick: is every result right?

What is not installed is left out, and said. Each peer gets the layout it likes best, made before the clock starts; causal
FLOPs count half. Every result is compared with a float64 softmax before it is timed; a peer that is wrong is not timed.
Packages: `pip install numpy torch onnxruntime onnx openvino` (any of them).
"""
import argparse
import json
import os
import statistics
import sys
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before the libraries read them
for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)  # they halve its speed

import numpy as np  # noqa: E402

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python"))
import strobe  # noqa: E402

# What each peer's copies of K and V take, so that they come from memory: as `strobe bench`, but there are several peers.
COLD_BYTES = min(max(256e6, 2.0 * os.sysconf("SC_LEVEL3_CACHE_SIZE") if "SC_LEVEL3_CACHE_SIZE" in os.sysconf_names else 0),
                 os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") / 20)
ALLOWED = {"f32": 2e-5, "bf16": 3e-2, "f16": 4e-3}  # of the largest |O|


class Case:
    """q (batch, heads, q_len, head_dim), k and v (batch, heads, n, head_dim) as f32 that the dtype holds exactly, and a
    reference of some rows. Decode: one query of 4 heads to a KV head, which for every peer is q_len 4 with as many heads as KV heads."""

    def __init__(self, dtype, d, n, causal, decode=False, batch=1, heads=8):
        self.dtype, self.d, self.n, self.causal, self.decode = dtype, d, n, causal, decode
        self.batch, self.heads = batch, heads
        self.q_len = 4 if decode else n
        random = np.random.default_rng(1)
        self.q, self.k, self.v = (self.held(random.standard_normal((batch, heads, rows, d), np.float32))
                                  for rows in (self.q_len, n, n))
        kv_bytes = 2 * batch * heads * n * d * (4 if dtype == "f32" else 2)
        self.work = kv_bytes if decode else 4.0 * batch * heads * n * n * d / (2 if causal else 1)
        self.copies = 1 + int(COLD_BYTES / kv_bytes) if decode else 1  # taken in turn, so that K and V come from memory
        self.rows = np.unique(np.linspace(0, self.q_len - 1, 17).astype(int))
        q, k, v = (x.astype(np.float64) for x in (self.q[:, :, self.rows], self.k, self.v))
        s = q @ k.swapaxes(-1, -2) / np.sqrt(d)
        if causal:
            s = np.where(np.arange(n)[None, :] <= self.rows[:, None], s, -np.inf)
        p = np.exp(s - s.max(-1, keepdims=True))
        self.want = p / p.sum(-1, keepdims=True) @ v

    def held(self, x):
        if self.dtype == "bf16":
            return (x.view(np.uint32) & 0xffff0000).view(np.float32)
        return x.astype(np.float16).astype(np.float32) if self.dtype == "f16" else x

    def error(self, o):
        """Largest difference from the reference, as a share of the largest |O|. o: (batch, heads, q_len, head_dim)."""
        return float(np.abs(np.asarray(o, np.float64)[:, :, self.rows] - self.want).max() / np.abs(self.want).max())

    def __str__(self):
        if self.decode:
            return f"{self.dtype} d{self.d} decode, {self.n} keys"
        batch = f"{self.batch} x {self.heads} " if self.batch > 1 else ""
        return f"{self.dtype} {batch}d{self.d} N {self.n} {'causal' if self.causal else 'full'}"


# Each peer: name, version, and prepare(case) -> (run, result), or None for what it can't do. run() is timed; result() makes
# (batch, heads, q_len, head_dim) floats of what the last run gave.

class Strobe:
    """libstrobe.so through ctypes, with examples/python/strobe.py; bf16 as 16-bit integers, which numpy lacks."""
    name, version = "strobe", strobe._lib.strobe_version
    version.restype = strobe.c.c_char_p
    version = version().decode()

    @staticmethod
    def prepare(case):
        def typed(x):
            if case.dtype == "bf16":
                return (x.view(np.uint32) >> 16).astype(np.uint16)
            return x.astype({"f32": np.float32, "f16": np.float16}[case.dtype])  # a copy
        q, k, v = typed(case.q), typed(case.k), typed(case.v)
        o = np.empty_like(q)
        mask = ":causal" if case.causal else ""
        heads, q_len = (f"{4 * case.heads}/{case.heads}", 1) if case.decode else (case.heads, case.n)
        plan = strobe._plan(f"d{case.d}:{case.dtype}{mask}:b{case.batch}h{heads}q{q_len}k{case.n}", None)

        def array(x, length):
            return strobe.Array(x.ctypes.data, x.size // case.batch, case.d, length * case.d)
        io = strobe.Io(strobe.c.sizeof(strobe.Io), array(q, q_len), array(k, case.n), array(v, case.n), array(o, q_len))
        kept = (q, k, v, o, plan)

        def run():
            strobe._check(strobe._lib.strobe_execute(kept[4], strobe.c.byref(io)))

        def result():
            if case.dtype == "bf16":
                return (o.astype(np.uint32) << 16).view(np.float32)
            return o.astype(np.float32)
        return run, result


class Numpy:
    """Textbook attention head by head: two products by numpy's BLAS, S in memory."""
    name, version = "numpy", np.__version__

    @staticmethod
    def prepare(case):
        if case.dtype != "f32":
            return None
        q, k, v, o = case.q, case.k.copy(), case.v.copy(), np.empty_like(case.q)
        hidden = np.triu(np.full((case.n, case.n), -np.inf, np.float32), 1) if case.causal else None
        scale = np.float32(case.d ** -0.5)

        def run():
            for at in np.ndindex(case.batch, case.heads):
                s = (q[at] * scale) @ k[at].T
                if hidden is not None:
                    s += hidden
                s -= s.max(-1, keepdims=True)
                np.exp(s, out=s)
                np.matmul(s, v[at], out=o[at])
                o[at] /= s.sum(-1, keepdims=True)
        return run, lambda: o


class Torch:
    """torch.nn.functional.scaled_dot_product_attention."""

    def __init__(self):
        import torch
        torch.set_num_threads(1)
        self.torch, self.name, self.version = torch, "torch", torch.__version__
        self.attention = torch.nn.functional.scaled_dot_product_attention

    def prepare(self, case):
        torch = self.torch
        kind = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[case.dtype]
        q, k, v = (torch.from_numpy(x.copy()).to(kind) for x in (case.q, case.k, case.v))
        last = [None]

        def run():
            with torch.inference_mode():
                last[0] = self.attention(q, k, v, is_causal=case.causal)
        return run, lambda: last[0].float().numpy()


class Onnxruntime:
    """Full: MultiHeadAttention; causal: GroupQueryAttention, the op that skips what is hidden. f32 and f16."""

    def __init__(self):
        import onnx
        import onnxruntime
        self.onnx, self.runtime, self.name = onnx, onnxruntime, "onnxruntime"
        self.version = onnxruntime.__version__

    def model(self, case):
        h = self.onnx.helper
        kind = {"f32": self.onnx.TensorProto.FLOAT, "f16": self.onnx.TensorProto.FLOAT16}[case.dtype]
        rows = [h.make_tensor_value_info(x, kind, (case.batch, length, case.heads * case.d))
                for x, length in zip("qkvo", (case.q_len, case.n, case.n, case.q_len))]
        if case.causal:
            node = h.make_node("GroupQueryAttention", ["q", "k", "v", "", "", "last", "total"], ["o", "pk", "pv"],
                               domain="com.microsoft", num_heads=case.heads, kv_num_heads=case.heads)
            cache = [h.make_tensor_value_info(x, kind, (case.batch, case.heads, case.n, case.d)) for x in ("pk", "pv")]
            numbers = [h.make_tensor("last", self.onnx.TensorProto.INT32, (case.batch,), [case.n - 1] * case.batch),
                       h.make_tensor("total", self.onnx.TensorProto.INT32, (), [case.n])]
        else:
            node = h.make_node("MultiHeadAttention", list("qkv"), ["o"], domain="com.microsoft", num_heads=case.heads)
            cache, numbers = [], []
        graph = h.make_graph([node], "attention", rows[:3], rows[3:] + cache, numbers)
        return h.make_model(graph, opset_imports=[h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)], ir_version=8)

    def prepare(self, case):
        if case.dtype == "bf16":
            return None
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = self.runtime.InferenceSession(self.model(case).SerializeToString(), options, ["CPUExecutionProvider"])
        kind = {"f32": np.float32, "f16": np.float16}[case.dtype]
        feed = {name: x.transpose(0, 2, 1, 3).reshape(case.batch, x.shape[2], -1).astype(kind)
                for name, x in zip("qkv", (case.q, case.k, case.v))}
        last = [None]

        def run():
            last[0] = session.run(["o"], feed)[0]
        return run, lambda: last[0].reshape(case.batch, case.q_len, case.heads, case.d).transpose(0, 2, 1, 3).astype(
            np.float32)


class Openvino:
    """The ScaledDotProductAttention operation, static shapes. f32, and bf16 as its inference precision."""

    def __init__(self):
        import openvino
        from openvino import opset13
        self.openvino, self.opset, self.name = openvino, opset13, "openvino"
        self.version = openvino.__version__.split("-")[0]

    def prepare(self, case):
        if case.dtype == "f16":
            return None
        kind = self.openvino.Type.bf16 if case.dtype == "bf16" else self.openvino.Type.f32
        inputs = [self.opset.parameter(list(x.shape), kind) for x in (case.q, case.k, case.v)]
        node = self.opset.scaled_dot_product_attention(*inputs, causal=case.causal)
        settings = {"INFERENCE_PRECISION_HINT": {"f32": "f32", "bf16": "bf16"}[case.dtype], "INFERENCE_NUM_THREADS": 1,
                    "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        model = self.openvino.compile_model(self.openvino.Model([node], inputs, "attention"), "CPU", settings)
        request = model.create_infer_request()
        for i, x in enumerate((case.q, case.k, case.v)):
            tensor = self.openvino.Tensor(kind, list(x.shape))
            tensor.data[:] = (x.view(np.uint32) >> 16).astype(np.uint16).view(tensor.data.dtype) if case.dtype == "bf16" else x
            request.set_input_tensor(i, tensor)

        def run():
            request.infer()

        def result():
            o = request.get_output_tensor(0).data
            return o if o.dtype == np.float32 else (o.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return run, result


PEERS = {"strobe": Strobe, "torch": Torch, "onnxruntime": Onnxruntime, "openvino": Openvino, "numpy": Numpy}


def find_peers(names):
    found, missing = [], [f"{name}: there is no such peer" for name in names or [] if name not in PEERS]
    for name, make in PEERS.items():
        if names and name not in names and name != "strobe":
            continue
        try:
            found.append(make())
        except (ImportError, AttributeError, OSError) as why:
            missing.append(f"{name}: not timed: {str(why).splitlines()[0]}")
    return found, missing


def prepare_all(case, peers, notes):
    runs = {}
    for peer in peers:
        try:
            made = [peer.prepare(case) for _ in range(case.copies)]
            if made[0] is None:
                continue
            for run, _ in made:
                run()
            error = case.error(made[0][1]())
        except Exception as why:  # what a peer does not support it says in its own way
            notes.append(f"{peer.name}, {case}: {str(why).strip().splitlines()[0][:160]}")
            continue
        if error > ALLOWED[case.dtype]:
            notes.append(f"{peer.name}, {case}: wrong by {error:.2g} of the largest |O|; not timed")
            continue
        runs[peer.name] = ([run for run, _ in made], error)
    return runs


def measure(case, runs, rounds):
    """A B C A B C; medians of seconds."""
    seconds = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (copies, _) in runs.items():
            start = time.perf_counter()
            for run in copies:
                run()
            seconds[name].append((time.perf_counter() - start) / len(copies))
    rate = {name: case.work / statistics.median(s) / 1e9 for name, s in seconds.items()}
    ahead = {name: statistics.median(b / a for a, b in zip(seconds["strobe"], s)) for name, s in seconds.items()}
    return rate, ahead


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dtype", nargs="+", default=["f32", "bf16"], choices=list(ALLOWED))
    p.add_argument("--d", nargs="+", type=int, help="head_dim (default: 64 128)")
    p.add_argument("--n", nargs="+", type=int, help="q_len and kv_len (default: 512 2048)")
    p.add_argument("--batch", type=int, default=1, help="(default: 1)")
    p.add_argument("--heads", type=int, default=8, help="of K and V; of Q as many, with --decode 4 times as many (default: 8)")
    p.add_argument("--peers", nargs="+", help="only these")
    p.add_argument("--runs", type=int, default=11, help="rounds over the peers of a cell (default: 11)")
    p.add_argument("--json", action="store_true", help="print the numbers as JSON")
    p.add_argument("--decode", action="store_true", help="one query of 32 heads on 8, d128, 8192 keys (--n, --d change it)")
    p.add_argument("--check", action="store_true", help="compare with float64, one small cell of each kind; no times")
    a = p.parse_args()
    a.d = a.d or ([128] if a.decode else [64, 128])
    a.n = a.n or ([8192] if a.decode else [512, 2048])
    if a.check:
        a.n, a.runs = [100], 0
    peers, notes = find_peers(a.peers)
    cells, wrong = [], False
    for dtype in a.dtype:
        for d in a.d:
            for n in a.n:
                for causal in (False,) if a.decode else (False, True):
                    case = Case(dtype, d, n, causal, a.decode, a.batch, a.heads)
                    runs = prepare_all(case, peers, notes)
                    if "strobe" not in runs:
                        wrong = True
                        continue
                    cell = {"dtype": dtype, "head_dim": d, "n": n, "mask": "causal" if causal else "full", "decode": a.decode,
                            "error": {name: error for name, (_, error) in runs.items()}}
                    if a.runs:
                        cell["gbs" if a.decode else "gflops"], cell["strobe_times_as_fast"] = measure(case, runs, a.runs)
                    cells.append(cell)
                    if not a.json:
                        show(case, cell, a.runs)
    versions = {peer.name: peer.version for peer in peers}
    if a.json:
        json.dump({"versions": versions, "runs": a.runs, "batch": a.batch, "heads": a.heads, "cells": cells, "notes": notes},
                  sys.stdout, indent=1)
        print()
    else:
        print("versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
        print("\n".join(notes))
    return wrong


def show(case, cell, timed):
    if not timed:
        print(f"{str(case):24s} " + "  ".join(f"{name} {error:.1e}" for name, error in cell["error"].items()), "ok")
        return
    ahead, unit = cell["strobe_times_as_fast"], "GB/s" if case.decode else "GFLOP/s"
    print(f"{str(case):24s} " + "  ".join(
        f"{name} {rate:6.1f}" + (f" ({ahead[name]:.2f}x)" if name != "strobe" else f" {unit}")
        for name, rate in cell["gbs" if case.decode else "gflops"].items()), flush=True)


sys.exit(main())
