"""Attention through libstrobe.so with ctypes: no extension module. Takes numpy arrays, and torch tensors on the CPU.

    import strobe
    o = strobe.attention(q, k, v, is_causal=True)                    # as torch's scaled_dot_product_attention
    o, lse = strobe.attention(q, k, v, scale=0.1, return_lse=True)

The library is $STROBE_LIBRARY, else what the loader finds as libstrobe.so.0.
"""
import ctypes as c
import os
import threading


class Array(c.Structure):  # struct strobe_array: strides in elements
    _fields_ = [("data", c.c_void_p), ("batch", c.c_int64), ("row", c.c_int64), ("head", c.c_int64)]


class Io(c.Structure):  # struct strobe_io
    _fields_ = [("size", c.c_size_t), ("q", Array), ("k", Array), ("v", Array), ("o", Array), ("lse", c.c_void_p),
                ("workspace", c.c_void_p), ("kv_lens", c.c_void_p), ("kv_lens_bytes", c.c_int),
                ("workspace_bytes", c.c_size_t)]


class PlanOptions(c.Structure):  # struct strobe_plan_options
    _fields_ = [("size", c.c_size_t), ("target", c.c_char_p), ("config", c.c_char_p), ("backend", c.c_char_p),
                ("scale", c.c_float), ("has_scale", c.c_int), ("effort", c.c_int), ("budget_s", c.c_double),
                ("same_bits", c.c_int)]


class Error(RuntimeError):
    """What strobe_error() says: field, value, and what is allowed."""


_lib = c.CDLL(os.environ.get("STROBE_LIBRARY", "libstrobe.so.0"))
_lib.strobe_error.restype = c.c_char_p
_lib.strobe_plan_create.argtypes = [c.c_void_p, c.c_char_p, c.POINTER(PlanOptions), c.POINTER(c.c_void_p)]
_lib.strobe_execute.argtypes = [c.c_void_p, c.POINTER(Io)]

_context = c.c_void_p()
_plans = {}  # they live as long as the process; any number of threads may execute one
_lock = threading.Lock()


def _check(status):
    if status:
        raise Error(_lib.strobe_error().decode())


_check(_lib.strobe_context_create(None, c.byref(_context)))


def _plan(problem, scale):
    with _lock:
        if (problem, scale) not in _plans:
            plan, options = c.c_void_p(), PlanOptions(size=c.sizeof(PlanOptions))
            if scale is not None:
                options.scale, options.has_scale = scale, 1
            _check(_lib.strobe_plan_create(_context, problem.encode(), c.byref(options), c.byref(plan)))
            _plans[problem, scale] = plan
        return _plans[problem, scale]


# What differs between numpy and torch: dtype, strides, address, new arrays.
class _Numpy:
    import numpy as np

    def dtype(self, x):
        return x.dtype.name

    def readable(self, x):
        steps = [s for s, n in zip(x.strides, x.shape) if n > 1]
        packed = x.shape[-1] <= 1 or x.strides[-1] == x.itemsize
        good = packed and all(s > 0 and s % x.itemsize == 0 for s in steps) and x.flags.aligned
        return x if good else self.np.ascontiguousarray(x)

    def strides(self, x):
        return [s // x.itemsize for s in x.strides]

    def address(self, x):
        return x.ctypes.data

    def empty(self, like, shape):
        return self.np.empty(shape, like.dtype)

    def empty_f32(self, like, shape):
        return self.np.empty(shape, self.np.float32)


class _Torch:
    def dtype(self, x):
        if x.device.type != "cpu":
            raise Error(f"a tensor is on {x.device}: must be on the CPU; x.cpu() is")
        return str(x.dtype).replace("torch.", "")

    def readable(self, x):
        x = x.detach()
        steps = [s for s, n in zip(x.stride(), x.shape) if n > 1]
        return x if (x.shape[-1] <= 1 or x.stride(-1) == 1) and all(s > 0 for s in steps) else x.contiguous()

    def strides(self, x):
        return x.stride()

    def address(self, x):
        return x.data_ptr()

    def empty(self, like, shape):
        return like.new_empty(shape)

    def empty_f32(self, like, shape):
        import torch
        return torch.empty(shape, dtype=torch.float32)


_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def _dtype(api, x, name):
    if api.dtype(x) not in _DTYPES:
        raise Error(f"{name} is {api.dtype(x)}: must be one of {', '.join(_DTYPES)}")
    return _DTYPES[api.dtype(x)]


def _array(api, x):
    batch, head, row, _ = (max(s, 1) for s in api.strides(x))
    return Array(api.address(x), batch, row, head)


def attention(q, k, v, is_causal=False, scale=None, return_lse=False):
    """O = softmax(scale Q K^T + mask) V, of q's type and dtype, shape (batch, heads, q_len, head_dim_v).

    q: (batch, heads, q_len, head_dim); k: (batch, heads_kv, kv_len, head_dim); v: (batch, heads_kv, kv_len, head_dim_v);
    heads_kv divides heads: query head h reads KV head h // (heads // heads_kv), as with torch's enable_gqa. Any strides;
    only an array whose rows are not contiguous, or that is broadcast, is copied. Each of float32, bfloat16, float16; k
    and v alike. is_causal: query i sees keys 0 to i, as torch means it (top left), also where q_len != kv_len.
    scale: default 1/sqrt(head_dim). return_lse: also the log-sum-exp of each row, float32, (batch, heads, q_len).
    """
    api = _Numpy() if hasattr(q, "__array_interface__") and not hasattr(q, "data_ptr") else _Torch()
    q, k, v = (api.readable(x) for x in (q, k, v))
    if not len(q.shape) == len(k.shape) == len(v.shape) == 4:
        raise Error(f"q, k, v have {len(q.shape)}, {len(k.shape)}, {len(v.shape)} dimensions: must be (batch, heads, "
                    "length, head_dim)")
    b, h, n, d = q.shape
    _, g, m, dv = v.shape
    if tuple(k.shape) != (b, g, m, d) or v.shape[0] != b:
        raise Error(f"k is {tuple(k.shape)}, v is {tuple(v.shape)}: with this q and v, k must be {(b, g, m, d)}")
    dtypes = [_dtype(api, x, name) for x, name in ((q, "q"), (k, "k"), (v, "v"))]
    if dtypes[1] != dtypes[2]:
        raise Error(f"k is {dtypes[1]}, v is {dtypes[2]}: must be the same")
    mask = "causal_top_left" if is_causal else "full"
    problem = f"d{d}v{dv}:q={dtypes[0]},kv={dtypes[1]}:{mask}:b{b}h{h}/{g}q{n}k{m}"
    o = api.empty(q, (b, h, n, dv))
    lse = api.empty_f32(q, (b, h, n)) if return_lse else None
    io = Io(size=c.sizeof(Io), q=_array(api, q), k=_array(api, k), v=_array(api, v), o=_array(api, o))
    if return_lse:
        io.lse = api.address(lse)
    _check(_lib.strobe_execute(_plan(problem, scale), c.byref(io)))
    return (o, lse) if return_lse else o
