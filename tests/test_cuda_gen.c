// CUDA kernels without a GPU: index mathematics of the rendered text against the definitions of the PTX ISA,
// feasibility with reasons, and, where NVRTC is installed, what ptxas makes of it. Barriers: test_cuda_protocol.c.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// cmocka has a macro of the same name as a function of ours.
#include "../gen/cuda_kernel.h"
#include "../runtime/gpu_nvrtc.h"
#include "../runtime/kernel_abi.h"
#include "../runtime/launch_params.h"

#include "../runtime/launch.h"

#include <cmocka.h>

#include "cuda_instances.h"

static struct buf render(const char *problem, const char *set, struct instance *i) {
  struct error err = {0};
  struct buf out = {0};
  if (resolve(problem, set, i, &err)) fail_msg("%s", err.text);
  const struct render_options o = {.for_tcc = true, .comments = true};
  if (cuda_kernel_render(i, &o, NULL, NULL, &out, &err)) fail_msg("%s", err.text);
  assert_false(out.failed);
  return out;
}

// ---- index mathematics ----

// SWIZZLE_128B: bits 4-6 of a shared-memory address are xored with bits 7-9.
static int swizzle(int at) { return at ^ ((at >> 7 & 7) << 4); }
// Where TMA puts element (row, column) of a tile of 64-column panels.
static int tile_at(int rows, int row, int column) {
  return column / 64 * rows * 128 + swizzle(row * 128 + column % 64 * 2);
}
// Element (n, k) that wgmma reads through a descriptor: K-major, and MN-major ("transposed") with LBO between panels.
static int k_major_at(int start, int n, int k) { return swizzle(start + n / 8 * 1024 + n % 8 * 128 + k * 2); }
static int mn_major_at(int start, int leading, int n, int k) {
  return swizzle(start + n / 64 * leading + k / 8 * 1024 + k % 8 * 128 + n % 64 * 2);
}

// The x-th offset (16-byte units) that the rendered function adds to a descriptor.
static int offset_in(const char *function, char operand, int x) {
  char pattern[32];
  snprintf(pattern, sizeof pattern, "\"add.s64 %c, %%", operand);
  for (int i = 0; i <= x; i++) {
    function = strstr(function, pattern);
    assert_non_null(function);
    function += strlen(pattern);
  }
  return atoi(strchr(function, ',') + 1);
}

static void descriptors(void **state) {
  (void)state;
  for (int n = 0; n < N_DEFAULTS; n++) {
    struct instance i;
    struct buf text = render(defaults[n], NULL, &i);
    const int d = i.spec.head_dim, keys = i.config.v[CFG_BLOCK_N];
    const char *qk = strstr(text.data, "DEVICE void qk("), *pv = strstr(text.data, "DEVICE void pv(");
    assert_non_null(qk);
    assert_non_null(pv);
    for (int x = 0; x < d / 16; x++)
      for (int row = 0; row < keys; row++)
        for (int k = 0; k < 16; k++) {
          assert_int_equal(k_major_at(16 * offset_in(qk, 'k', x), row, k), tile_at(keys, row, 16 * x + k));
          if (!i.config.v[CFG_Q_REGS] && row < 64)
            assert_int_equal(k_major_at(16 * offset_in(qk, 'q', x), row, k), tile_at(64, row, 16 * x + k));
          if (row >= 4 && keys > 64) row += 6; // a sample
        }
    for (int x = 0; x < keys / 16; x++)
      for (int column = 0; column < d; column += 5)
        for (int k = 0; k < 16; k++)
          assert_int_equal(mn_major_at(16 * offset_in(pv, 'v', x), keys * 128, column, k),
                           tile_at(keys, 16 * x + k, column));
    char leading[64];
    snprintf(leading, sizeof leading, "stage * %d, %d))", keys * d * 2, keys * 8); // LBO of V's descriptor
    assert_non_null(strstr(text.data, leading));
    buf_free(&text);
  }
}

// Accumulator fragment: register r of a lane is this row and column of the warp's 16 rows.
static void accumulator(int lane, int r, int *row, int *column) {
  *row = lane / 4 + (r % 4 >= 2 ? 8 : 0);
  *column = r / 4 * 8 + lane % 4 * 2 + r % 2;
}
// A operand of a k16 step: half h of register a.
static void operand_a(int lane, int a, int h, int *row, int *column) {
  *row = lane / 4 + (a % 2 ? 8 : 0);
  *column = (a >= 2 ? 8 : 0) + lane % 4 * 2 + h;
}

static void fragments(void **state) {
  (void)state;
  for (int lane = 0; lane < 32; lane++)
    for (int step = 0; step < 8; step++)
      for (int a = 0; a < 4; a++)
        for (int h = 0; h < 2; h++) {
          // convert(): p[i] = pack(s[2i], s[2i + 1]), p[4 step + a] is operand a.
          int row, column, want_row, want_column;
          accumulator(lane, 2 * (4 * step + a) + h, &row, &column);
          operand_a(lane, a, h, &want_row, &want_column);
          assert_int_equal(row, want_row);
          assert_int_equal(column, 16 * step + want_column);
          // load_q_fragments(): matrix a of ldmatrix.x4 takes its rows from lanes 8a .. 8a + 7.
          const int source = 8 * a + lane / 4, from_row = source & 15, half = source >> 4;
          const int at =
              from_row * 128 + step / 4 * 8192 + (((step % 4 * 2 + half) ^ (from_row & 7)) << 4) + lane % 4 * 4 + 2 * h;
          assert_int_equal(at, tile_at(64, want_row, 16 * step + want_column));
        }
}

// stage_o(): register a of a step of 16 columns goes through matrix a of stmatrix.x4, whose rows lie where lanes 8a ..
// 8a + 7 say; the TMA store takes boxes of 16 rows x 64 columns.
static void staging(void **state) {
  (void)state;
  struct instance i;
  struct buf text = render("d256:bf16", NULL, &i);
  const char *stage = strstr(text.data, "DEVICE void stage_o(");
  assert_non_null(stage);
  assert_non_null(strstr(stage, "store_matrix(own + row * 128 + (((2 * i + half) ^ (row & 7)) << 4)"));
  buf_free(&text);
  bool written[16][64] = {{false}};
  for (int lane = 0; lane < 32; lane++)
    for (int step = 0; step < 4; step++)
      for (int a = 0; a < 4; a++)
        for (int h = 0; h < 2; h++) {
          int row, column;
          accumulator(lane, 8 * step + 2 * a + h, &row, &column);
          const int source = 8 * a + lane / 4, at_row = source & 15, half = source >> 4;
          const int at = at_row * 128 + (((2 * step + half) ^ (at_row & 7)) << 4) + lane % 4 * 4 + 2 * h;
          assert_int_equal(at, tile_at(16, row, column));
          assert_false(written[row][column]);
          written[row][column] = true;
        }
}

// ---- the order of tiles: decode() of templates/cuda/scheduler.inc on what the host fills in ----

static void tile_order(long long batch, long long heads, long long heads_kv, long long n, int sms) {
  const struct strobe_launch l = {
      .head_dim = 256, .element_bytes = 2, .block_m = 128, .block_n = 64, .l2_section = 16 << 20};
  const struct strobe_args a = {
      .batch = batch, .heads = heads, .heads_kv = heads_kv, .q_len = n, .kv_len = n, .scale = 1};
  struct strobe_params p = {0};
  assert_int_equal(strobe_fill_params(&l, &a, sms, &p, (struct strobe_message){NULL, 0}), 0);
  bool *seen = calloc((size_t)p.tiles, sizeof *seen);
  assert_non_null(seen);
  int last_section = 0;
  for (int number = 0; number < p.tiles; number++) {
    const int in_section = p.section * p.m_blocks, cut = number / in_section;
    const int section = cut < p.sections - 1 ? cut : p.sections - 1;
    const int rest = number - section * in_section, first = section * p.section;
    const int in = section < p.sections - 1 ? p.section : p.all_heads - first, step = rest / in;
    const int m = p.m_blocks - 1 - step, head = first + rest - step * in;
    assert_true(m >= 0 && head >= first && head < first + in);
    assert_false(seen[head * p.m_blocks + m]);
    seen[head * p.m_blocks + m] = true;
    last_section += section == p.sections - 1;
  }
  free(seen);
  assert_true(p.sections == 1 || last_section >= sms);
}

static void sections(void **state) {
  (void)state;
  for (long long n = 512; n <= 16384; n *= 2) tile_order(16384 / n, 8, 8, n, 132);
  for (int sms = 1; sms < 400; sms += 57)
    for (long long heads = 1; heads < 40; heads += 3) tile_order(2, 4 * heads, heads, 2000, sms);
}

// ---- text and feasibility ----

static int count(const char *text, const char *word) {
  int n = 0;
  for (; (text = strstr(text, word)); text += strlen(word)) n++;
  return n;
}

static void text(void **state) {
  (void)state;
  for (int n = 0; n < N_DEFAULTS; n++) {
    struct instance i;
    struct buf b = render(defaults[n], NULL, &i);
    char list[32];
    snprintf(list, sizeof list, "%%%d}, \"", i.spec.head_dim_v / 2 - 1); // end of PV's register list
    assert_int_equal(count(b.data, "wgmma.mma_async"), i.spec.head_dim / 16 + i.config.v[CFG_BLOCK_N] / 16);
    assert_true(count(b.data, list) >= i.config.v[CFG_BLOCK_N] / 16);
    assert_null(strstr(b.data, "template"));
    assert_null(strstr(b.data, "${"));
    buf_free(&b);
  }
}

// What explain says, against the text: bytes of regions, arrivals of barriers, registers, threads.
static int constant(const char *text, const char *name) {
  char pattern[40];
  snprintf(pattern, sizeof pattern, "  %s = ", name);
  const char *at = strstr(text, pattern);
  if (!at) snprintf(pattern, sizeof pattern, " %s = ", name), at = strstr(text, pattern);
  if (!at) fail_msg("no %s", name);
  return atoi(at + strlen(pattern));
}

static void explained(void **state) {
  (void)state;
  for (int n = 0; n < N_DEFAULTS; n++) {
    struct instance i;
    struct cuda_kernel k;
    struct cuda_region r[CUDA_REGIONS];
    struct cuda_barrier b[CUDA_BARRIERS];
    struct buf text = render(defaults[n], NULL, &i);
    char line[96];
    cuda_derive(&i, &k);
    const int regions = cuda_regions(&i, &k, r), barriers = cuda_barriers(&i, &k, b);
    static const char *const names[] = {"Q_TILE", "K_RING", "V_RING", "O_STAGE", "K_FULL", "TILE_INFO"};
    const bool staged = i.config.v[CFG_O_TMA] == 2;
    assert_int_equal(regions, staged ? CUDA_REGIONS : CUDA_REGIONS - 1);
    int bytes = 0, mbarriers = 0;
    for (int x = 0; x < regions; x++) {
      assert_int_equal(constant(text.data, names[x < 3 || staged ? x : x + 1]), r[x].at);
      assert_int_equal(r[x].at, bytes);
      if (r[x].rows) assert_int_equal(r[x].bytes, 2 * r[x].buffers * r[x].rows * r[x].columns);
      bytes += r[x].bytes;
    }
    assert_int_equal(bytes, k.shared_bytes);
    assert_int_equal(constant(text.data, "SHARED_BYTES"), bytes);
    assert_true(bytes <= CUDA_SHARED_LIMIT);
    for (int x = 0; x < barriers; x++) {
      snprintf(line, sizeof line, "barrier_init(smem + %s + 8 * i, %d);", b[x].name, b[x].arrivals);
      if (!strstr(text.data, line)) fail_msg("%s: no %s", defaults[n], line);
      const char *loop = strstr(text.data, line), *head = loop;
      while (strncmp(head, "for (int i = 0; i < ", 20)) head--;
      assert_int_equal(atoi(head + 20), b[x].number);
      mbarriers += b[x].number;
    }
    assert_int_equal(count(strstr(text.data, "DEVICE void init_barriers"), "barrier_init(smem"), barriers);
    assert_true(8 * mbarriers <= r[regions - 2].bytes);
    snprintf(line, sizeof line, "setmaxnreg.dec.sync.aligned.u32 %d;", k.producer_regs);
    assert_non_null(strstr(text.data, line));
    snprintf(line, sizeof line, "setmaxnreg.inc.sync.aligned.u32 %d;", k.consumer_regs);
    assert_non_null(strstr(text.data, line));
    snprintf(line, sizeof line, "__launch_bounds__(%d, 1)", k.threads);
    assert_non_null(strstr(text.data, line));
    assert_true(128 * (k.producer_regs + k.warpgroups * k.consumer_regs) <= 65536);
    buf_free(&text);
  }
  struct problem p;
  struct error err = {0};
  assert_int_equal(problem_parse("d128:bf16:b1h16q4096k4096", &p, &err), 0);
  assert_int_equal(problem_complete(&p, &err), 0);
  assert_float_equal(cuda_ideal_tensor_us(&p), 4.0 * 16 * 4096 * 4096 * 128 / 989.4e12 * 1e6, 0.05);
  assert_float_equal(cuda_ideal_exp2_us(&p), 16.0 * 4096 * 4096 / (16 * 132 * 1.83e9) * 1e6, 0.05);
}

static void refusals(void **state) {
  (void)state;
  static const struct {
    const char *problem, *set, *says;
  } rows[] = {{"d128:bf16", "stages=4", "stages=3 fits"},
              {"d128:bf16", "block_n=256,stages=2", "bytes of shared memory, sm90a has 232448"},
              {"d64:bf16", "block_m=256,block_n=128,stages=2", "registers a thread"},
              {"d128:bf16", "regs=248", "240 is the most"},
              {"d128:bf16", "block_m=100", "128 is the nearest"},
              {"d128:bf16", "stages=1", "overlap=0 works"},
              {"d128:bf16", "block_m=64,pingpong=1", "pingpong=0 works"},
              {"d128:bf16", "overlap=0,flat=1", "flat=0 works"},
              {"d128:bf16", "overlap=0,q_regs=1", "q_regs=0 works"},
              {"d128:bf16", "overlap=0,softmax=fast", "softmax=conditional works"},
              {"d128:bf16", "q_regs=0", "o_tma=2, works"},
              {"d128:bf16", "tile_n=4", "does not apply"},
              {"d80:bf16", NULL, "64 is the nearest"},
              {"d128:f32", NULL, "bf16"}};
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct instance i;
    struct error err = {0};
    if (!resolve(rows[n].problem, rows[n].set, &i, &err))
      fail_msg("%s %s was not refused", rows[n].problem, rows[n].set);
    if (!strstr(err.text, rows[n].says))
      fail_msg("%s %s: \"%s\" does not say \"%s\"", rows[n].problem, rows[n].set, err.text, rows[n].says);
  }
}

// ---- ptxas ----

static void report(void **state) {
  (void)state;
  struct gpu_report r;
  static const char *const prefix[] = {"", "    ", "ptxas         .     ", "x\n"}; // of ptxas alone, and inside NVRTC
  char log[300];
  for (int n = 0; n < 4; n++) {
    snprintf(
        log, sizeof log,
        "ptxas info    : 0 bytes gmem\n%s176 bytes stack frame, 332 bytes spill stores, 252 bytes spill loads\nptxas "
        "info    : Used 255 registers, used 1 barriers\n%s",
        prefix[n], n ? "" : "ptxas info : (C7510) Potential Performance Loss\n");
    gpu_report_parse(log, &r);
    assert_int_equal(r.stack_bytes, 176);
    assert_int_equal(r.spill_stores, 332);
    assert_int_equal(r.spill_loads, 252);
    assert_int_equal(r.registers, 255);
    assert_string_equal(r.serialized, n ? "" : "C7510) Potential Performance Loss");
  }
  gpu_report_parse("", &r);
  assert_int_equal(r.registers, 0);
}

static bool have_nvrtc(void) {
  int major, minor;
  struct error err = {0};
  if (!nvrtc_version(&major, &minor, &err)) return true;
  print_message("not checked: registers, spills and serialised wgmma of CUDA kernels: %s\n", err.text);
  return false;
}

static void compiled(void **state) {
  (void)state;
  if (!have_nvrtc()) return;
  for (int n = 0; n < N_DEFAULTS; n++) {
    struct instance i;
    struct cuda_kernel k;
    struct gpu_report report;
    struct error err = {0};
    struct buf b = render(defaults[n], NULL, &i), cubin = {0};
    cuda_derive(&i, &k);
    if (nvrtc_compile(b.data, &cubin, &report, &err)) fail_msg("%s: %s", defaults[n], err.text);
    assert_true(cubin.len > 1000 && !memcmp(cubin.data, "\177ELF", 4));
    assert_int_equal(report.registers, k.entry_regs);
    if (report.spill_stores || report.spill_loads) // outside the main loop, which is what counts
      print_message("note: %s spills %d bytes of stores, %d of loads outside its main loops\n", defaults[n],
                    report.spill_stores, report.spill_loads);
    if (report.spill_stores > 16 || report.spill_loads > 32)
      fail_msg("%s: %d bytes of spill stores, %d of loads", defaults[n], report.spill_stores, report.spill_loads);
    assert_string_equal(report.serialized, "");
    assert_int_equal(report.main_loops, i.spec.mask == MASK_FULL ? 1 : 2); // masked blocks have a loop of their own
    assert_int_equal(report.local_in_loop, 0);
    buf_free(&b);
    buf_free(&cubin);
  }
}

// A kernel that reads S before waiting for it: ptxas serialises its wgmma, and that is refused.
static void serialised(void **state) {
  (void)state;
  if (!have_nvrtc()) return;
  struct instance i;
  struct gpu_report report;
  struct error err = {0};
  struct buf b = render("d128:bf16", NULL, &i), cubin = {0};
  char *wait = strstr(b.data, "wgmma.wait_group.sync.aligned 1;");
  assert_non_null(wait);
  memset(wait, ' ', strlen("wgmma.wait_group.sync.aligned 1;"));
  assert_int_not_equal(nvrtc_compile(b.data, &cubin, &report, &err), 0);
  assert_non_null(strstr(err.text, "C75"));
  buf_free(&b);
  buf_free(&cubin);
}

// Kernels with more values than registers: local memory in the main loop is refused, and what would fit is named.
static void spilling(void **state) {
  (void)state;
  if (!have_nvrtc()) return;
  static const char *const sets[] = {"block_m=64,block_n=128,stages=2,q_regs=1",
                                     "block_m=64,block_n=112,stages=2,q_regs=1"};
  for (int n = 0; n < 2; n++) {
    struct instance i;
    struct gpu_report report;
    struct error err = {0};
    struct buf b = render("d128:bf16", sets[n], &i), cubin = {0};
    assert_int_equal(nvrtc_compile(b.data, &cubin, &report, &err), STROBE_INTERNAL);
    assert_non_null(strstr(err.text, "loads and stores of local memory in every iteration"));
    if (report.local_in_loop < 1 || report.spill_loads < 1)
      fail_msg("%d in the loop, %d bytes of loads: %s", report.local_in_loop, report.spill_loads, err.text);
    buf_free(&b);
    buf_free(&cubin);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(descriptors), cmocka_unit_test(fragments), cmocka_unit_test(staging),
      cmocka_unit_test(sections),    cmocka_unit_test(text),      cmocka_unit_test(explained),
      cmocka_unit_test(refusals),    cmocka_unit_test(report),    cmocka_unit_test(compiled),
      cmocka_unit_test(serialised),  cmocka_unit_test(spilling)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
