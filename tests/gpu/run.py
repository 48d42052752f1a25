"""Checks and times every kernel of a folder (kernels.so, manifest.json; optionally proto.so) in one call: run.py FOLDER [check|time|all]."""
import ctypes
import os
import sys

import torch

from harness import DTYPES, bursts, load, oracle, relative

# batch, heads, heads_kv, q_len, kv_len
SHAPES = [(2, 3, 3, 512, 512), (2, 6, 2, 1000, 1000), (1, 2, 1, 1023, 1024), (1, 2, 2, 1024, 777), (3, 5, 5, 70, 1), (2, 2, 2, 1, 1),
          (2, 6, 1, 64, 128), (3, 2, 2, 113, 203), (3, 2, 2, 108, 256), (2, 3, 3, 799, 3), (1, 2, 2, 1, 3000), (5, 16, 4, 640, 640),
          (1, 4, 2, 2048, 2176), (2, 6, 6, 239, 1), (1, 6, 6, 384, 256)]


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


def time_cells(kernels, proto, lengths, rounds):
    for d in (64, 128, 256):
        for causal in (0, 1):
            for n in lengths:
                b, h = 16384 // n, 2048 // d
                flops = 4.0 * b * h * n * n * d / (2 if causal else 1)
                calls, keep = {}, []
                for k in kernels:
                    if k.head_dim != d or k.causal != causal or not k.use[0] <= n <= k.use[1]: continue
                    x = [torch.randn(b, n, h, d, device="cuda").to(DTYPES[k.dtype]) for _ in range(3)]
                    o, lse = torch.empty_like(x[0]), torch.empty(b, h, n, device="cuda")
                    a = k.args(*x, o, lse)
                    keep.append((x, o, lse, a))
                    calls[k.label] = lambda k=k, a=a: k.launch(a, torch.cuda.current_stream().cuda_stream)
                if not calls: continue
                x = [torch.randn(b, n, h, d, device="cuda").to(torch.bfloat16) for _ in range(3)]
                t = [y.transpose(1, 2) for y in x]
                cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention
                calls["cudnn"] = lambda: cudnn(*t, None, True, 0.0, bool(causal), False)
                if proto:
                    o, lse = torch.empty_like(x[0]), torch.empty(b, h, n, device="cuda")
                    i = next(i for i in range(proto.fa_count()) if proto.fa_d(i) == d and proto.fa_causal(i) == causal and proto.fa_use(i, n))
                    p = [ctypes.c_void_p(y.data_ptr()) for y in (*x, o, lse)]
                    again = {"reprep": 1}
                    def prototype(i=i, p=p, b=b, h=h, n=n, again=again):
                        proto.fa_run(i, *p, b, h, n, again["reprep"])
                        again["reprep"] = 1
                    calls["prototype"] = prototype
                ms = bursts(calls, rounds, 6.0, flops / 600e12 * 1e3)
                print(f"d{d} {'causal' if causal else 'full  '} {n:6d}  " + "  ".join(f"{name} {flops / t * 1e-9:.0f}" for name, t in ms.items()), flush=True)


def main():
    folder, what = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "all"
    kernels = load(folder)
    print(torch.cuda.get_device_name(), torch.version.cuda, len(kernels), "kernels")
    if what in ("check", "all"):
        repeats = int(sys.argv[3]) if what == "check" and len(sys.argv) > 3 else 1
        for k in kernels:
            lines = [check(k, s, seed=r) for r in range(repeats) for s in SHAPES] + [check(k, (1, 2, 2, 1023, 1024), 3.0), check(k, (2, 4, 4, 1100, 1300), 10.0)]
            bad = [text for ok, text in lines if not ok]
            print(f"{'ok  ' if not bad else 'FAIL'} {k.label}" + "".join("\n     " + x for x in bad[:6]), flush=True)
    if what in ("race", "all"):
        for k in kernels:
            if not k.use[1] and what == "race": continue
            for shape in ((5, 16, 4, 640, 640), (4, 8, 8, 1900, 1900)):
                bad, where, rows = race(k, shape, int(sys.argv[3]) if what == "race" and len(sys.argv) > 3 else 200)
                if bad: print(f"FAIL {k.label} {shape}: {bad} launches differ, {rows} rows, as (batch, head, row, times) {where}", flush=True)
        print("race done", flush=True)
    if what in ("time", "all"):
        path = os.path.join(folder, "proto.so")
        lengths = [int(x) for x in sys.argv[3].split(",")] if len(sys.argv) > 3 else [512, 1024, 2048, 4096, 8192, 16384]
        time_cells(kernels, ctypes.CDLL(path) if os.path.exists(path) else None, lengths, int(sys.argv[4]) if len(sys.argv) > 4 else 5)


main()
