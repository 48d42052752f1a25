#include "scan.h"
#include "spec.h"

const struct exp_info exp_table[EXP_COUNT] = {
    [EXP_TABLE1] = {"table1", 1, true, 1.2e-4},
    [EXP_TABLE2] = {"table2", 2, true, 5.4e-7},
    [EXP_POLY3] = {"poly3", 3, false, 7.6e-5},
    [EXP_POLY5] = {"poly5", 5, false, 1.6e-7},
};

const char *const algo_names[ALGO_COUNT] = {"standard", "fa1", "fa2", "fa3"};

const struct config_field_info config_fields[CFG_COUNT] = {
    [CFG_BLOCK_M] = {"block_m", FAMILY_ANY,
                     "a multiple of the vector lanes, up to 4 vectors: 16, 32, 48 or 64 (avx2: 8, 16, 24 or 32)",
                     "query rows of a tile (CPU: one query per lane)"},
    [CFG_BLOCK_N] = {"block_n", FAMILY_ANY, "a multiple of 16 (of 32 with bf16), up to 512",
                     "key rows of a KV block: one running maximum and one rescale per block"},
    [CFG_TILE_N] = {"tile_n", FAMILY_CPU, "1 to 8, a divisor of block_n; even with bf16",
                    "key rows (QK) or head_dim_v columns (PV) of a register tile"},
    [CFG_STAGES] = {"stages", FAMILY_ANY, "1 or 2",
                    "K/V tiles in flight: CPU 2 (softmax of one under QK of the next) or 1, CUDA the rings' length"},
    [CFG_UNROLL] = {"unroll", FAMILY_CPU,
                    "auto, full or a divisor of head_dim rounded up to a multiple of 4; even with bf16",
                    "head_dim steps of QK that are straight-line code"},
    [CFG_EXP] = {"exp", FAMILY_CPU, "table1, table2, poly3 or poly5",
                 "how exp2 is computed: table or not, degree of the polynomial"},
    [CFG_PREFETCH] = {"prefetch", FAMILY_CPU, "0 to 64", "K and V rows ahead that are prefetched by software; 0: none"},
    [CFG_PACK_K] = {"pack_k", FAMILY_CPU, "0 or 1", "1: K is copied to contiguous rows; 0: it is read in place"},
    [CFG_PACK_V] = {"pack_v", FAMILY_CPU, "0 or 1; 1 with bf16",
                    "1: V is copied (bf16: pairs of rows interleaved); 0: it is read in place"},
    [CFG_KERNEL] = {"kernel", FAMILY_CPU, "auto, prefill, decode or tiles",
                    "decode: the few rows of a KV head share one pass over K and one over V; prefill: tiles of "
                    "queries; tiles: prefill by AMX"},
    [CFG_ALGO] =
        {"algo", FAMILY_CPU, "auto, standard, fa1, fa2 or fa3",
         "standard: S is whole in memory; fa1: KV blocks outside, O rescaled in memory; fa2: stages=1; fa3: stages=2"},
    [CFG_DIAGONAL] =
        {"diagonal", FAMILY_CPU, "auto, skip or mask",
         "causal: skip leaves out vectors of queries that see nothing of a key; mask computes and masks them"},
    [CFG_TAIL_M] = {"tail_m", FAMILY_CPU, "0, or a multiple of the vector lanes that is less than block_m",
                    "a last tile of no more queries than this is so small; 0: it is as large as the others"},
    [CFG_BLOCK_H] = {"block_h", FAMILY_CPU, "1 to 64",
                     "KV heads whose rows are read together, key by key, where they lie side by side (decode)"},
    [CFG_SPLIT] = {"split", FAMILY_CPU, "0 or a multiple of 16, up to 1048576",
                   "keys of a work item (decode): parts of a sequence run at once and are merged by lse; 0: no parts"},
    [CFG_Q_STAGES] = {"q_stages", FAMILY_CUDA, "1 or 2", "Q tiles in shared memory"},
    [CFG_PINGPONG] = {"pingpong", FAMILY_CUDA, "0 or 1", "1: consumer warpgroups take turns to issue their GEMMs"},
    [CFG_OVERLAP] = {"overlap", FAMILY_CUDA, "0 or 1", "1: softmax of a block runs under PV of the block before"},
    [CFG_FLAT] = {"flat", FAMILY_CUDA, "0 or 1", "1: a tile's first QK goes out with the last PV of the tile before"},
    [CFG_SOFTMAX] = {"softmax", FAMILY_CUDA, "classical, conditional or fast",
                     "when O is rescaled: every block; when a maximum grew a lot; fast: no maximum on unmasked blocks"},
    [CFG_HEAVY_KEYS] = {"heavy_keys", FAMILY_CUDA, "0 or 1",
                        "1: O is divided by P as rounded, for keys that outweigh the rest"},
    [CFG_Q_REGS] = {"q_regs", FAMILY_CUDA, "0 or 1", "1: QK reads Q from registers; 0: from shared memory"},
    [CFG_O_TMA] =
        {"o_tma", FAMILY_CUDA, "0, 1 or 2",
         "O leaves 0: from registers; by TMA, 1: through Q's place in shared memory, 2: through one of its own"},
    [CFG_SCHEDULE] = {"schedule", FAMILY_CUDA, "grid, persistent or lpt",
                      "a CTA per tile; a CTA per multiprocessor; and long tiles first, by ticket"},
    [CFG_L2_SECTION] = {"l2_section", FAMILY_CUDA, "1 to 1024", "MiB of K and V that heads in flight may take (lpt)"},
    [CFG_REGS] = {"regs", FAMILY_CUDA, "a multiple of 8, 24 to 256", "registers of a consumer thread"},
};

enum { UNROLL_AUTO = 0, UNROLL_FULL = -2, NUMBER_MAX = 1 << 20 };

// Words besides numbers: `auto` leaves a field to the heuristic.
static const struct word {
  enum config_field field;
  const char *name;
  int value;
} words[] = {
    {CFG_UNROLL, "auto", UNROLL_AUTO},
    {CFG_UNROLL, "full", UNROLL_FULL},
    {CFG_EXP, "auto", CONFIG_UNSET},
    {CFG_BLOCK_M, "auto", CONFIG_UNSET},
    {CFG_BLOCK_N, "auto", CONFIG_UNSET},
    {CFG_TILE_N, "auto", CONFIG_UNSET},
    {CFG_STAGES, "auto", CONFIG_UNSET},
    {CFG_PREFETCH, "auto", CONFIG_UNSET},
    {CFG_PACK_K, "auto", CONFIG_UNSET},
    {CFG_PACK_V, "auto", CONFIG_UNSET},
    {CFG_KERNEL, "auto", CONFIG_UNSET},
    {CFG_TAIL_M, "auto", CONFIG_UNSET},
    {CFG_BLOCK_H, "auto", CONFIG_UNSET},
    {CFG_SPLIT, "auto", CONFIG_UNSET},
    {CFG_KERNEL, "prefill", KERNEL_PREFILL},
    {CFG_KERNEL, "decode", KERNEL_DECODE},
    {CFG_KERNEL, "tiles", KERNEL_TILES},
    {CFG_ALGO, "auto", CONFIG_UNSET},
    {CFG_ALGO, "standard", ALGO_STANDARD},
    {CFG_ALGO, "fa1", ALGO_FA1},
    {CFG_ALGO, "fa2", ALGO_FA2},
    {CFG_ALGO, "fa3", ALGO_FA3},
    {CFG_DIAGONAL, "auto", CONFIG_UNSET},
    {CFG_DIAGONAL, "skip", DIAGONAL_SKIP},
    {CFG_DIAGONAL, "mask", DIAGONAL_MASK},
    {CFG_EXP, "table1", EXP_TABLE1},
    {CFG_EXP, "table2", EXP_TABLE2},
    {CFG_EXP, "poly3", EXP_POLY3},
    {CFG_EXP, "poly5", EXP_POLY5},
    {CFG_SOFTMAX, "classical", SOFTMAX_CLASSICAL},
    {CFG_SOFTMAX, "conditional", SOFTMAX_CONDITIONAL},
    {CFG_SOFTMAX, "fast", SOFTMAX_FAST},
    {CFG_SCHEDULE, "grid", SCHEDULE_GRID},
    {CFG_SCHEDULE, "persistent", SCHEDULE_PERSISTENT},
    {CFG_SCHEDULE, "lpt", SCHEDULE_LPT},
};
enum { N_WORDS = sizeof words / sizeof *words };

bool config_field_applies(enum config_field f, const struct target *t) {
  return config_fields[f].family == FAMILY_ANY || config_fields[f].family == t->family;
}

void config_clear(struct config *c) {
  for (int i = 0; i < CFG_COUNT; i++) c->v[i] = CONFIG_UNSET;
}

static int find_field(struct slice name, struct error *err) {
  const char *names[CFG_COUNT];
  for (int i = 0; i < CFG_COUNT; i++) {
    if (slice_is(name, config_fields[i].name)) return i;
    names[i] = config_fields[i].name;
  }
  struct buf known = {0};
  for (int i = 0; i < CFG_COUNT; i++)
    buf_printf(&known, "%s%s", i == 0 ? "" : i == CFG_COUNT - 1 ? " and " : ", ", names[i]);
  fail(err, known.failed ? STROBE_NO_MEMORY : STROBE_INVALID,
       "config field '%s' is unknown: %s are known; '%s' is the nearest", quote(name).text,
       known.failed ? "" : known.data, nearest_name(name, names, CFG_COUNT));
  buf_free(&known);
  return -1;
}

static bool takes_words_only(int field) {
  return field == CFG_KERNEL || field == CFG_ALGO || field == CFG_DIAGONAL || field == CFG_EXP ||
         field == CFG_SOFTMAX || field == CFG_SCHEDULE;
}

static int refuse_value(int field, struct slice value, struct error *err) {
  const char *names[N_WORDS];
  int n = 0;
  for (int i = 0; i < N_WORDS; i++)
    if (words[i].field == (enum config_field)field) names[n++] = words[i].name;
  bool number = !n || (value.len && (value.at[0] < 'a' || value.at[0] > 'z') && !takes_words_only(field));
  return fail(err, STROBE_INVALID, "%s '%s': must be %s%s%s", config_fields[field].name, quote(value).text,
              config_fields[field].allowed, number ? "" : "; the nearest word is ",
              number ? "" : nearest_name(value, names, n));
}

static int parse_value(int field, struct slice value, int *out, struct error *err) {
  for (int i = 0; i < N_WORDS; i++) {
    if (words[i].field != (enum config_field)field || !slice_is(value, words[i].name)) continue;
    *out = words[i].value;
    return STROBE_OK;
  }
  struct slice s = value;
  int64_t number;
  enum scan got = scan_number(&s, NUMBER_MAX, &number);
  bool zero_is_a_word = field == CFG_UNROLL && number == 0;
  if (got != SCAN_OK || s.len || takes_words_only(field) || zero_is_a_word) return refuse_value(field, value, err);
  *out = (int)number;
  return STROBE_OK;
}

int config_parse(const char *text, struct config *c, struct error *err) {
  struct config parsed = *c;
  bool given[CFG_COUNT] = {false}, more = *text != 0;
  struct slice rest = slice_of(text);
  while (more) {
    struct slice item = slice_cut(&rest, ',', &more), value = item;
    bool assigned;
    struct slice name = slice_cut(&value, '=', &assigned);
    if (!assigned)
      return fail(err, STROBE_INVALID, "config item '%s' must be name=value, as in block_n=128,stages=2",
                  quote(item).text);
    int field = find_field(name, err);
    if (field < 0) return STROBE_INVALID;
    if (given[field])
      return fail(err, STROBE_INVALID, "config field %s is given twice: once is allowed", config_fields[field].name);
    given[field] = true;
    int status = parse_value(field, value, &parsed.v[field], err);
    if (status) return status;
  }
  *c = parsed;
  return STROBE_OK;
}

// The word that a value stands for; NULL: it is a number.
static const char *word_of(int field, int value) {
  for (int i = 0; i < N_WORDS; i++)
    if (words[i].field == (enum config_field)field && words[i].value == value) return words[i].name;
  return NULL;
}

void config_print(const struct config *c, const struct target *t, struct buf *out) {
  const char *separator = "";
  for (int i = 0; i < CFG_COUNT; i++) {
    if (c->v[i] == CONFIG_UNSET || (t && !config_field_applies((enum config_field)i, t))) continue;
    const char *word = word_of(i, c->v[i]);
    buf_str(out, separator);
    buf_str(out, config_fields[i].name);
    buf_char(out, '=');
    if (word)
      buf_str(out, word);
    else
      buf_int(out, c->v[i]);
    separator = ",";
  }
}
