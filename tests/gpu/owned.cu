// A set of kernels as another project owns it: the dispatcher's own_launch on the GPU against its own_forward on the
// CPU, same arguments, whole tensors. Built by build.py from an emitted set (sm90a beside CPU targets); needs no Strobe
// to run.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "own_dispatch.h"

static void check(cudaError_t e, const char *call) {
  if (e == cudaSuccess) return;
  std::printf("FAIL %s: %s\n", call, cudaGetErrorString(e));
  std::exit(1);
}
#define CHECK(call) check(call, #call)

struct shape {
  own_problem problem;
  long long batch, heads, heads_kv, q_len, kv_len;
};

static const shape shapes[] = {
    {{64, 64, OWN_BF16, OWN_BF16, OWN_BF16, OWN_CAUSAL}, 2, 6, 2, 203, 301},
    {{128, 128, OWN_BF16, OWN_BF16, OWN_BF16, OWN_FULL}, 1, 4, 4, 300, 257},
    {{128, 128, OWN_F16, OWN_F16, OWN_F16, OWN_FULL}, 2, 2, 1, 129, 512},
    {{256, 256, OWN_BF16, OWN_BF16, OWN_BF16, OWN_CAUSAL}, 1, 3, 1, 160, 160},
};

static float half_value(unsigned short bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float magnitude = exponent ? std::ldexp(1024.f + fraction, exponent - 25) : std::ldexp((float)fraction, -24);
  return bits & 0x8000 ? -magnitude : magnitude;
}

static float value(own_dtype t, unsigned short bits) {
  if (t == OWN_F16) return half_value(bits);
  const unsigned word = (unsigned)bits << 16;
  float f;
  std::memcpy(&f, &word, sizeof f);
  return f;
}

// Of -2 to 2, in steps that both dtypes have.
static unsigned short random_bits(own_dtype t, unsigned *state) {
  *state = *state * 1664525u + 1013904223u;
  const unsigned sign = *state >> 31, exponent = *state >> 28 & 3, fraction = *state >> 20 & 127;
  return (unsigned short)(t == OWN_F16 ? sign << 15 | (12 + exponent) << 10 | fraction << 3
                                       : sign << 15 | (124 + exponent) << 7 | fraction);
}

// A packed (batch, rows, heads, head_dim) tensor, on both sides.
struct tensor {
  std::vector<unsigned short> host;
  unsigned short *device = nullptr;
  long long rows, heads, head_dim;

  tensor(const shape &s, long long rows, long long heads, own_dtype t, unsigned seed)
      : host(s.batch * rows * heads * s.problem.head_dim), rows(rows), heads(heads), head_dim(s.problem.head_dim) {
    for (unsigned short &x : host) x = random_bits(t, &seed);
    CHECK(cudaMalloc(&device, host.size() * sizeof host[0]));
    CHECK(cudaMemcpy(device, host.data(), host.size() * sizeof host[0], cudaMemcpyHostToDevice));
  }
  ~tensor() { cudaFree(device); }
  strobe_tensor at(unsigned short *data) const { return {data, rows * heads * head_dim, head_dim, heads * head_dim}; }
};

static bool agrees(const shape &s) {
  const own_dtype t = s.problem.q;
  tensor q(s, s.q_len, s.heads, t, 1), k(s, s.kv_len, s.heads_kv, t, 2), v(s, s.kv_len, s.heads_kv, t, 3),
      o(s, s.q_len, s.heads, t, 4);
  std::vector<unsigned short> want(o.host.size()), got(o.host.size());
  strobe_args a = {};
  a.abi = STROBE_ABI, a.size = sizeof a;
  a.batch = s.batch, a.heads = s.heads, a.heads_kv = s.heads_kv, a.q_len = s.q_len, a.kv_len = s.kv_len;
  a.diagonal = s.kv_len - s.q_len, a.scale = 1 / std::sqrt((float)s.problem.head_dim);

  char why[300] = "";
  a.q = q.at(q.host.data()), a.k = k.at(k.host.data()), a.v = v.at(v.host.data()), a.o = o.at(want.data());
  int status = own_forward(&s.problem, &a, nullptr, 0, why, sizeof why);
  if (status) return std::printf("FAIL own_forward: status %d, %s\n", status, why), false;

  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaMalloc(&a.workspace, 64));
  CHECK(cudaMemset(a.workspace, 0, 64));
  CHECK(cudaDeviceSynchronize());
  a.q = q.at(q.device), a.k = k.at(k.device), a.v = v.at(v.device), a.o = o.at(o.device);
  status = own_launch(&s.problem, &a, stream, why, sizeof why);
  if (status) return std::printf("FAIL own_launch: status %d, %s\n", status, why), false;
  CHECK(cudaStreamSynchronize(stream));
  CHECK(cudaMemcpy(got.data(), o.device, got.size() * sizeof got[0], cudaMemcpyDeviceToHost));
  CHECK(cudaFree(a.workspace));
  CHECK(cudaStreamDestroy(stream));

  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); i++) {
    const double x = value(t, want[i]), y = value(t, got[i]);
    error += (x - y) * (x - y), norm += x * x;
  }
  const double relative = std::sqrt(error / norm), bound = t == OWN_F16 ? 1e-3 : 6e-3; // two roundings of O, one of P
  const bool ok = relative <= bound;
  std::printf("%s own_launch against own_forward: d%d %s %s: relative error in norm %.1e, bound %.1e\n",
              ok ? "ok  " : "FAIL", s.problem.head_dim, t == OWN_F16 ? "f16" : "bf16",
              s.problem.mask == OWN_CAUSAL ? "causal" : "full", relative, bound);
  return ok;
}

static bool refuses_what_it_has_not() {
  const own_problem none = {72, 72, OWN_BF16, OWN_BF16, OWN_BF16, OWN_FULL};
  strobe_args a = {};
  char why[300] = "";
  a.abi = STROBE_ABI, a.size = sizeof a;
  a.batch = a.heads = a.heads_kv = a.q_len = a.kv_len = 1;
  const bool ok = own_launch(&none, &a, nullptr, why, sizeof why) == OWN_UNSUPPORTED && why[0];
  std::printf("%s own_launch without a kernel for it: %s\n", ok ? "ok  " : "FAIL", why);
  return ok;
}

int main() {
  int failed = !refuses_what_it_has_not();
  for (const shape &s : shapes) failed += !agrees(s);
  return failed != 0;
}
