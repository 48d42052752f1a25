"""Checks and times every kernel of a folder (kernels.so, manifest.json; optionally proto.so) in one call: run.py FOLDER
[check|race|time|wide|all] [repeats, launches or rounds]."""
import ctypes
import math
import os
import sys

import torch

from harness import DTYPES, bursts, load, oracle, relative
from peers import LENGTHS, PEERS

# batch, heads, heads_kv, q_len, kv_len
SHAPES = [(2, 3, 3, 512, 512), (2, 6, 2, 1000, 1000), (1, 2, 1, 1023, 1024), (1, 2, 2, 1024, 777), (3, 5, 5, 70, 1), (2, 2, 2, 1, 1),
          (2, 6, 1, 64, 128), (3, 2, 2, 113, 203), (3, 2, 2, 108, 256), (2, 3, 3, 799, 3), (1, 2, 2, 1, 3000), (5, 16, 4, 640, 640),
          (1, 4, 2, 2048, 2176), (2, 6, 6, 239, 1), (1, 6, 6, 384, 256), (2, 4, 2, 200, 0)]


def check(k, shape, std=1.0, seed=0):
    b, h, g, n, m = shape
    gen = torch.Generator("cuda").manual_seed(seed + n + m)
    make = lambda rows, heads, amp: (torch.randn(b, rows, heads, k.head_dim, generator=gen, device="cuda") * amp).to(DTYPES[k.dtype])
    q, key, v = make(n, h, std), make(m, g, std), make(m, g, 1)
    wide = torch.full((b, n, h, k.head_dim + 8), float("nan"), dtype=q.dtype, device="cuda")
    o, lse = wide[..., :k.head_dim], torch.full((b, h, n), float("nan"), device="cuda")
    args = k.args(q, key, v, o, lse)
    k.launch(args)
    torch.cuda.synchronize()
    first = o.clone(), lse.clone()
    k.launch(args)
    torch.cuda.synchronize()
    same = torch.equal(first[0].view(torch.int16), o.view(torch.int16)) and torch.equal(first[1], lse)
    ref, ref_lse = oracle(q, key, v, k.causal)
    error = relative(o, ref)
    lse_error = torch.nan_to_num(lse.double() - ref_lse, nan=0.0 if torch.equal(torch.isinf(lse), torch.isinf(ref_lse)) else 9.0).abs().max().item()
    limit = 4e-3 if k.dtype == "bf16" else 1e-3
    untouched = bool(torch.isnan(wide[..., k.head_dim:]).all())
    worst = ((o.double() - ref).norm(dim=3) / ref.norm(dim=3).clamp_min(1e-30)).max().item()  # one bad row does not show in the norm
    ok = error < limit and lse_error < 2e-3 and same and untouched
    return ok, f"{shape} std {std}: o {error:.1e} lse {lse_error:.1e} same {same} worst row {worst:.1e} untouched {untouched}"


def race(k, shape, times):
    """Launches that differ from the first, and where."""
    b, h, g, n, m = shape
    q, key, v = (torch.randn(b, r, x, k.head_dim, device="cuda").to(DTYPES[k.dtype]) for r, x in ((n, h), (m, g), (m, g)))
    o, lse = torch.empty_like(q), torch.empty(b, h, n, device="cuda")
    args = k.args(q, key, v, o, lse)
    k.launch(args)
    first = o.clone(), lse.clone()
    bad, where = torch.zeros((), dtype=torch.int64, device="cuda"), torch.zeros_like(lse, dtype=torch.int32)
    side = torch.cuda.Stream()
    for i in range(times):
        lse.fill_(7)
        if i % 2: torch.cuda.synchronize()  # an idle machine starts its CTAs at other times
        if i % 3 == 0:
            with torch.cuda.stream(side): torch.cuda._sleep(20000)  # another stream takes a multiprocessor
        k.launch(args)
        rows = (o != first[0]).any(3).transpose(1, 2) | (lse != first[1])
        bad += rows.any()
        where += rows
    rows = where.nonzero()
    return bad.item(), [tuple(x) + (where[tuple(x)].item(),) for x in rows[:6].tolist()], len(rows)


def inputs(k_dim, n, std, dtype):
    b, h = 16384 // n, 2048 // k_dim
    q, k, v = (torch.randn(b, n, h, k_dim, device="cuda") for _ in range(3))
    return b, h, [(q * std).to(dtype), (k * std).to(dtype), v.to(dtype)]


def timed(k, x, keep):
    """A call of kernel k on x; keep holds what it uses."""
    o, lse = torch.empty_like(x[0]), torch.empty(x[0].shape[0], x[0].shape[2], x[0].shape[1], device="cuda")
    a = k.args(*x, o, lse)
    keep.append((x, o, lse, a))
    return lambda: k.launch(a, torch.cuda.current_stream().cuda_stream)


def prototype_call(proto, d, causal, n, b, h, x, keep):
    """The prototype's kernel for a cell, from a library built with -DSHARED."""
    o, lse = torch.empty_like(x[0]), torch.empty(b, h, n, device="cuda")
    i = next(i for i in range(proto.fa_count()) if proto.fa_d(i) == d and proto.fa_causal(i) == causal and proto.fa_use(i, n))
    p = [ctypes.c_void_p(y.data_ptr()) for y in (*x, o, lse)]
    keep.append((o, lse))
    return lambda: proto.fa_run(i, *p, b, h, n, 1)


def geomean(x):
    return math.exp(sum(map(math.log, x)) / len(x))


def time_cells(kernels, proto, lengths, rounds):
    """TFLOP/s of every cell, and r: the time of cuDNN over Strobe's, interleaved here, times cuDNN's over the best peer's figure of
    peers.py, so that the state of the machine cancels. Bars: geometric mean of r 1.08, each cell 0.98, f16 within 5 % of bf16."""
    print(f"{'':21}  bf16   f16  cuDNN  best peer      r  f16/bf16" + ("  prototype  bf16/prototype" if proto else ""))
    r, halves, against = [], [], []
    for (d, causal), (cudnn_table, best) in PEERS.items():
        for n in lengths:
            cell, (b, h, x), keep = LENGTHS.index(n), inputs(d, n, 1, torch.bfloat16), []
            flops = 4.0 * b * h * n * n * d / (2 if causal else 1)
            calls = {}
            halves_x = inputs(d, n, 1, torch.float16)[2]  # of all their bits: rounded bf16 values would take less power
            for k in kernels:
                if k.head_dim == d and k.causal == causal and k.use[0] <= n <= k.use[1] and not k.softmax:
                    calls[k.dtype] = timed(k, x if k.dtype == "bf16" else halves_x, keep)
            t = [y.transpose(1, 2) for y in x]
            calls["cudnn"] = lambda: torch.ops.aten._scaled_dot_product_cudnn_attention(*t, None, True, 0.0, bool(causal), False)
            if proto: calls["proto"] = prototype_call(proto, d, causal, n, b, h, x, keep)
            ms = bursts(calls, rounds, 6.0, flops / 600e12 * 1e3)
            speed = {name: flops / y * 1e-9 for name, y in ms.items()}
            r.append(ms["cudnn"] / ms["bf16"] * cudnn_table[cell] / best[cell])
            halves.append(speed["f16"] / speed["bf16"])
            line = (f"d{d:<4} {'causal' if causal else 'full  '} {n:6d}  {speed['bf16']:6.0f}{speed['f16']:6.0f}{speed['cudnn']:7.0f}"
                    f"{best[cell]:11.0f}{r[-1]:7.3f}{halves[-1]:10.3f}")
            if proto:
                against.append(ms["proto"] / ms["bf16"])
                line += f"{speed['proto']:11.0f}{against[-1]:16.3f}"
            print(line, flush=True)
    ok = geomean(r) >= 1.08 and min(r) >= 0.98 and min(halves) >= 0.95 and (not against or min(against) >= 0.97)
    print(f"{'ok  ' if ok else 'FAIL'} r: geometric mean {geomean(r):.3f}, least {min(r):.3f}; f16 / bf16 least {min(halves):.3f}"
          + (f"; bf16 / prototype mean {geomean(against):.3f}, least {min(against):.3f}" if against else ""), flush=True)


def wide(kernels, lengths, rounds):
    """Q and K of standard deviation 3, 5 (bar: no slower than softmax=classical) and 10 (reported)."""
    for std in (3, 5, 10):
        ratios = []
        for d in (64, 128, 256):
            for causal in (0, 1):
                for n in lengths:
                    (b, h, x), keep, calls = inputs(d, n, std, torch.bfloat16), [], {}
                    for k in kernels:
                        if k.dtype == "bf16" and k.head_dim == d and k.causal == causal and k.use[0] <= n <= k.use[1]:
                            calls[k.softmax or "default"] = timed(k, x, keep)
                    flops = 4.0 * b * h * n * n * d / (2 if causal else 1)
                    ms = bursts(calls, rounds, 6.0, flops / 600e12 * 1e3)
                    ratios.append((ms["classical"] / ms["default"], f"d{d} {'causal' if causal else 'full'} {n}"))
        least, where = min(ratios)
        print(f"{'FAIL' if std < 10 and least < 0.99 else 'ok  '} std {std}: speed over softmax=classical, geometric mean "
              f"{geomean([x for x, _ in ratios]):.3f}, least {least:.3f} ({where})", flush=True)


def main():
    folder, what = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "all"
    kernels = load(folder)
    number = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    print(torch.cuda.get_device_name(), torch.version.cuda, len(kernels), "kernels")
    if what in ("check", "all"):
        for k in kernels:
            lines = [check(k, s, seed=r) for r in range(number or 1) for s in SHAPES] + [check(k, (1, 2, 2, 1023, 1024), 3.0), check(k, (2, 4, 4, 1100, 1300), 10.0)]
            bad = [text for ok, text in lines if not ok]
            print(f"{'ok  ' if not bad else 'FAIL'} {k.label}" + "".join("\n     " + x for x in bad[:6]), flush=True)
    if what in ("race", "all"):
        for k in kernels:
            if what == "race" and (not k.use[1] or k.softmax): continue  # defaults
            for shape in ((5, 16, 4, 640, 640), (4, 8, 8, 1900, 1900)):
                bad, where, rows = race(k, shape, number or 200)
                if bad: print(f"FAIL {k.label} {shape}: {bad} launches differ, {rows} rows, as (batch, head, row, times) {where}", flush=True)
        print(f"race: {number or 200} launches of each kernel and shape compared", flush=True)
    if what in ("time", "all"):
        path = os.path.join(folder, "proto.so")
        time_cells(kernels, ctypes.CDLL(path) if os.path.exists(path) else None, LENGTHS, number or 5)
    if what in ("wide", "all"): wide(kernels, (1024, 4096, 16384), number or 3)


main()
