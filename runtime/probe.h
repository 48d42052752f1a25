// Peak probes: what this core reaches with nothing but multiply-adds, or nothing but loads. A benchmark runs them
// between its own bursts, in the same process, so that a per cent of peak is of the machine as it was at that moment.
#ifndef STROBE_PROBE_H
#define STROBE_PROBE_H

#include "../gen/spec.h"

// Runs multiply-adds for about `ms` milliseconds on the calling thread and returns GFLOP/s (2 per multiply-add), an
// average over the burst: 12 independent accumulators, operands in registers. The loop is the one of target t: avx512,
// avx512bf16 and avx2 f32 FMA. c99 has no peak of its own (its speed is its compiler's): it is held against the best
// loop that this CPU has. A target this CPU lacks: likewise.
double probe_fma(const struct target *t, double ms);

// The same with dot products of bf16 pairs (vdpbf16ps, 4 operations per lane). Without that instruction bf16 kernels
// compute in f32: then it is probe_fma.
double probe_bf16_dot(const struct target *t, double ms);

// The same with products of tiles (tdpbf16ps, 16384 operations each). Without them probe_bf16_dot.
double probe_tiles(const struct target *t, double ms);

// What a kernel for s on t is held against: probe_tiles if t has tiles, over the products that a multiply-add of s
// takes (kernels by vectors there: ask for cpu_best_vector_target), probe_bf16_dot if t has the instruction and K and V
// are bf16, else probe_fma.
double probe_compute(const struct spec *s, const struct target *t, double ms);

// Read bandwidth over a buffer: 1, 2 or 4 streams, with and without software prefetch; the best is what a decode kernel
// is held against. Choose bytes well above the last-level cache (or above what the kernel under test reads, if that is
// cached too).
struct probe_reader;
// Allocates and touches the buffer, then times each of the six variants five times for ms. bytes is rounded up to a
// multiple of 256 KB. STROBE_INVALID (bytes 0 or more than 2^40), STROBE_NO_MEMORY.
int probe_reader_create(size_t bytes, double ms, struct probe_reader **out, struct error *err);
// The same over memory of the caller's, which stays and has been touched: what a kernel read from these very pages
// would be held against (pages of one process may differ by a fifth). A multiple of 256 KB of it is read.
// STROBE_INVALID (fewer bytes than that, or data not 64-byte aligned), STROBE_NO_MEMORY.
int probe_reader_over(const void *data, size_t bytes, double ms, struct probe_reader **out, struct error *err);
// GB/s (10^9 bytes) of the best variant in a burst of about ms; it goes on where the last burst ended.
double probe_reader_run(struct probe_reader *r, double ms);
const char *probe_reader_best(const struct probe_reader *r); // "2 streams, prefetch"
void probe_reader_free(struct probe_reader *r);

// What has to be read before a byte is read again, so that it comes from memory: twice the last-level cache, 256 MB if
// that is more, but at most a quarter of this machine's memory.
double probe_cold_bytes(void);

// Monotonic clock in seconds.
double probe_clock(void);

#endif
