#!/usr/bin/env python3
"""Compares strobe.attention with a softmax in float64, over shapes, masks, layouts and dtypes; with torch too if there is
one. Exit status 1 if something differs by more than its dtype allows."""
import sys

import numpy as np

import strobe


def reference(q, k, v, is_causal=False, scale=None):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    group, (n, m) = q.shape[1] // k.shape[1], (q.shape[2], k.shape[2])
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    s = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        s = np.where(np.tril(np.ones((n, m), bool)), s, -np.inf)
    top = s.max(-1, keepdims=True)
    p = np.exp(s - top)
    total = p.sum(-1, keepdims=True)
    return p / total @ v, (top + np.log(total))[..., 0]


worst = 0.0


def compare(name, got, want, eps):
    """Error beside what is allowed: eps of the result, and of the size of V (here about 1)."""
    global worst
    error = float(np.max(np.abs(np.asarray(got, np.float64) - want) / (eps * (np.abs(want) + 1))))
    worst = max(worst, error)
    print(f"{name:44s} {error:5.2f} of what is allowed {'ok' if error <= 1 else 'WRONG'}")


def with_numpy():
    random = np.random.default_rng(1)
    for dtype, eps in ((np.float32, 1e-5), (np.float16, 2e-3)):
        for b, h, g, n, m, d, causal in ((2, 4, 4, 128, 128, 64, False), (1, 8, 2, 100, 300, 128, True),
                                         (1, 8, 1, 1, 500, 64, False), (2, 3, 3, 70, 33, 40, True)):
            q, k, v = (random.standard_normal(s).astype(dtype) for s in ((b, h, n, d), (b, g, m, d), (b, g, m, d)))
            want, want_lse = reference(q, k, v, causal)
            o, lse = strobe.attention(q, k, v, is_causal=causal, return_lse=True)
            name = f"b{b} h{h}/{g} {n} x {m} d{d} {np.dtype(dtype).name}{' causal' if causal else ''}"
            compare(name, o, want, eps)
            compare("  its log-sum-exp", lse, want_lse, eps)
    x = random.standard_normal((2, 50, 4, 64)).astype(np.float32)  # (b, n, h, d), read in place
    view = x.transpose(0, 2, 1, 3)
    compare("a view of (batch, length, heads, head_dim)", strobe.attention(view, view, view), reference(view, view, view)[0],
            1e-5)
    one = np.broadcast_to(x[:1].transpose(0, 2, 1, 3), (2, 4, 50, 64))  # stride 0: copied
    compare("a broadcast batch, scale 0.5", strobe.attention(view, one, one, scale=0.5),
            reference(view, one, one, scale=0.5)[0], 1e-5)
    try:
        strobe.attention(view.astype(np.float64), view, view)
    except strobe.Error as error:
        print("refused:", error)


def with_torch(torch):
    """Beside torch's own scaled_dot_product_attention in float64: contiguous tensors, and views of (b, n, h, d)."""
    torch.manual_seed(1)
    sdpa = getattr(torch.nn.functional, "scaled_dot_product_attention", None)
    for dtype, eps in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)):
        for n, m, causal in ((128, 128, False), (128, 128, True), (60, 100, True), (100, 60, True)):
            for strided in (False, True):
                q, k, v = (torch.randn(2, length, 4, 64).to(dtype).transpose(1, 2) for length in (n, m, m))
                if not strided:
                    q, k, v = (x.contiguous() for x in (q, k, v))
                o = strobe.attention(q, k, v, is_causal=causal)
                want = sdpa(q.double(), k.double(), v.double(), is_causal=causal) if sdpa else \
                    torch.tensor(reference(*(x.double().tolist() for x in (q, k, v)), causal)[0])
                assert o.dtype == dtype
                compare(f"torch {n} x {m} {dtype}{' causal' if causal else ''}{' strided' if strided else ''}",
                        o.double().tolist(), np.array(want.tolist()), eps)
    q, k = torch.randn(2, 8, 50, 64), torch.randn(2, 2, 50, 64)  # a KV head for 4 query heads
    want = reference(q.double().tolist(), k.double().tolist(), k.double().tolist())[0]
    compare("torch 8 heads on 2 KV heads", strobe.attention(q, k, k).double().tolist(), want, 1e-5)


with_numpy()
try:
    import torch
except ImportError:
    print("could not check torch tensors: torch is not installed")
else:
    with_torch(torch)
sys.exit(worst > 1)
