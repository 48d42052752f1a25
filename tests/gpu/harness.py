"""Calls emitted sm90a kernels from Python: arguments, problems, a float64 oracle, timing. Wants torch and a Hopper GPU."""
import ctypes
import json
import math
import os
import statistics
import time

import torch


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("batch_stride", ctypes.c_longlong), ("head_stride", ctypes.c_longlong),
                ("row_stride", ctypes.c_longlong)]


class Args(ctypes.Structure):
    """struct strobe_args of runtime/kernel_abi.h."""
    _fields_ = [("abi", ctypes.c_uint), ("size", ctypes.c_uint), ("q", Tensor), ("k", Tensor), ("v", Tensor), ("o", Tensor),
                ("lse", ctypes.c_void_p), ("lse_batch_stride", ctypes.c_longlong), ("lse_head_stride", ctypes.c_longlong),
                ("batch", ctypes.c_longlong), ("heads", ctypes.c_longlong), ("heads_kv", ctypes.c_longlong),
                ("q_len", ctypes.c_longlong), ("kv_len", ctypes.c_longlong), ("diagonal", ctypes.c_longlong),
                ("scale", ctypes.c_float), ("workspace", ctypes.c_void_p), ("kv_lens", ctypes.c_void_p), ("kv_lens_bytes", ctypes.c_uint),
                ("diagonal_at_end", ctypes.c_uint), ("cu_seqlens_q", ctypes.c_void_p), ("cu_seqlens_k", ctypes.c_void_p),
                ("page_table", ctypes.c_void_p), ("page_table_stride", ctypes.c_longlong), ("page_rows", ctypes.c_longlong),
                ("window_left", ctypes.c_longlong), ("window_right", ctypes.c_longlong), ("partial_m", ctypes.c_void_p),
                ("partial_l", ctypes.c_void_p), ("scale_q", ctypes.c_void_p), ("scale_k", ctypes.c_void_p), ("scale_v", ctypes.c_void_p),
                ("bias", ctypes.c_void_p), ("sinks", ctypes.c_void_p), ("softcap", ctypes.c_float), ("workers", ctypes.c_uint)]


DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}


def describe(x):
    """A (batch, rows, heads, head_dim) tensor, any strides in the first three axes."""
    return Tensor(x.data_ptr(), x.stride(0), x.stride(2), x.stride(1))


class Kernel:
    """One entry of the manifest: a launcher in the shared library, and where it is used."""

    def __init__(self, library, entry):
        self.__dict__.update(entry)
        self.launcher = getattr(library, entry["symbol"] + "_launch")
        self.launcher.argtypes = [ctypes.POINTER(Args), ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
        self.workspace = torch.zeros(64, dtype=torch.uint8, device="cuda")

    def args(self, q, k, v, o, lse, scale=None, diagonal=None):
        a = Args()
        a.abi, a.size = 2, ctypes.sizeof(Args)
        a.q, a.k, a.v, a.o = describe(q), describe(k), describe(v), describe(o)
        if lse is not None:
            a.lse, a.lse_batch_stride, a.lse_head_stride = lse.data_ptr(), lse.stride(0), lse.stride(1)
        a.batch, a.q_len, a.heads = q.shape[:3]
        a.kv_len, a.heads_kv = k.shape[1:3]
        a.diagonal = a.kv_len - a.q_len if diagonal is None else diagonal
        a.scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
        a.workspace = self.workspace.data_ptr()
        return a

    def launch(self, a, stream=0):
        message = ctypes.create_string_buffer(400)
        status = self.launcher(ctypes.byref(a), stream, message, 400)
        if status:
            raise RuntimeError(f"{self.symbol}: status {status}: {message.value.decode()}")


def load(folder):
    library = ctypes.CDLL(os.path.join(folder, "kernels.so"))
    with open(os.path.join(folder, "manifest.json")) as f:
        return [Kernel(library, e) for e in json.load(f)]


def oracle(q, k, v, causal, scale=None, diagonal=None):
    """O and lse in float64, one head at a time. Rows that see no key: 0 and -inf."""
    b, n, h, d = q.shape
    m, g = k.shape[1], h // k.shape[2]
    scale = 1 / math.sqrt(d) if scale is None else scale
    diagonal = m - n if diagonal is None else diagonal
    o = torch.empty(b, n, h, v.shape[3], dtype=torch.float64, device=q.device)
    lse = torch.empty(b, h, n, dtype=torch.float64, device=q.device)
    visible = None
    if causal:
        visible = torch.arange(m, device=q.device)[None] <= torch.arange(n, device=q.device)[:, None] + diagonal
    for i in range(b):
        for j in range(h):
            s = q[i, :, j].double() @ k[i, :, j // g].double().T * scale
            if causal:
                s = s.masked_fill(~visible, -math.inf)
            lse[i, j] = torch.logsumexp(s, 1)
            p = torch.nan_to_num(torch.exp(s - lse[i, j][:, None]), nan=0.0) if causal else torch.exp(s - lse[i, j][:, None])
            o[i, :, j] = p @ v[i, :, j // g].double()
    return o, lse


def relative(x, ref):
    return ((x.double() - ref).norm() / ref.norm().clamp_min(1e-30)).item()


def bursts(calls, rounds, milliseconds, estimate):
    """Median milliseconds of each call, interleaved burst by burst with the order rotated; idle gaps keep the power cap away."""
    times = {name: [] for name in calls}
    names = list(calls)
    for r in range(rounds + 1):
        for i in range(len(names)):
            name = names[(i + r) % len(names)]
            count = 2 if r == 0 else max(4, min(30, int(milliseconds / estimate)))
            events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
            torch.cuda._sleep(400000)
            events[0].record()
            for e in events[1:]:
                calls[name]()
                e.record()
            torch.cuda.synchronize()
            if r:
                times[name] += [a.elapsed_time(b) for a, b in zip(events, events[1:])]
            time.sleep(0.005)
    return {name: statistics.median(t) for name, t in times.items()}
