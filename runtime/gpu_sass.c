#include "gpu_sass.h"

#include <elf.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// sm_90 has instructions of 16 bytes; NVIDIA documents none of their encoding. What is used here was read off beside
// the text that `nvdisasm -hex` (CUDA 13.0) prints for a dozen kernels of this generator, and holds for all 30,000 of
// their instructions:
//   bits 0-11   opcode, the table below
//   bits 12-15  guard: predicate 0-6, 7 for always; bit 15 negates
//   bits 16-23, 34-63  of a branch: its distance from the next instruction, in units of 4 bytes, two's complement
//   bits 87-90  of a branch: a second predicate, 7 for always; bits 32-33: .U.ANY and .DIV, which may also fall through
// A branch to a register (BRX, JMP, CALL, RET) is in none of them; where there is one, nothing is said.
enum { INSTRUCTION = 16, MOST_INSTRUCTIONS = 1 << 15, CUDA_MACHINE = 190 };

enum kind { PLAIN, LOCAL, WGMMA, BRANCH, EXIT, UNKNOWN };
static const struct {
  unsigned opcode;
  enum kind kind;
} opcodes[] = {
    {0x983, LOCAL},   // LDL
    {0x387, LOCAL},   // STL
    {0xdf0, WGMMA},   // HGMMA, A in registers
    {0x9f0, WGMMA},   // HGMMA, A in shared memory
    {0x947, BRANCH},  // BRA
    {0x94d, EXIT},    // EXIT
    {0x949, UNKNOWN}, // BRX
    {0x94a, UNKNOWN}, // JMP
    {0x943, UNKNOWN}, // CALL.ABS
    {0x944, UNKNOWN}, // CALL.REL
    {0x950, UNKNOWN}, // RET
};

static enum kind kind_of(uint64_t low) {
  for (size_t i = 0; i < sizeof opcodes / sizeof *opcodes; i++)
    if (opcodes[i].opcode == (low & 0xfff)) return opcodes[i].kind;
  return PLAIN;
}

// Control flow, one node per instruction. NONE: no successor.
enum { NONE = -1 };
struct flow {
  int n, *next[2];
  enum kind *kind;
  int *component; // strongly connected, without the edges that were cut
  bool *cut[2];
  int *order, *low, *stack, *path; // of the search for components
  bool *on_stack;
};

// The loops of one depth: a loop without the edges to its headers falls apart into those inside it.
struct nest {
  int *component; // of each node
  bool *header;   // of each node: entered from outside its component
  bool *wgmma;    // of each component: it is a loop and has one
  bool *outer;    // of each component: a loop inside it has one
  int *from;      // of the search for a way round: 2 nodes per instruction
  int *queue;     // same
};

// ---- reading ----

static int64_t distance(uint64_t low) {
  return 4 * (((int64_t)low >> 34) * 256 + (int64_t)(low >> 16 & 0xff)); // gcc and clang shift the sign in
}

static bool read_flow(const unsigned char *text, struct flow *f) {
  for (int i = 0; i < f->n; i++) {
    uint64_t low, high;
    memcpy(&low, text + (size_t)i * INSTRUCTION, sizeof low);
    memcpy(&high, text + (size_t)i * INSTRUCTION + 8, sizeof high);
    const bool always = (low >> 12 & 15) == 7;
    f->kind[i] = kind_of(low);
    f->next[0][i] = i + 1 < f->n ? i + 1 : NONE;
    f->next[1][i] = NONE;
    if (f->kind[i] == UNKNOWN) return false;
    if (f->kind[i] == EXIT && always) f->next[0][i] = NONE;
    if (f->kind[i] != BRANCH) continue;
    const int64_t target = (int64_t)(i + 1) * INSTRUCTION + distance(low);
    if (target < 0 || target >= (int64_t)f->n * INSTRUCTION || target % INSTRUCTION) return false;
    f->next[1][i] = (int)(target / INSTRUCTION);
    if (always && (high >> 23 & 15) == 7 && !(low >> 32 & 3)) f->next[0][i] = NONE;
  }
  return true;
}

// ---- loops ----

static int follow(const struct flow *f, int i, int way) { return f->cut[way][i] ? NONE : f->next[way][i]; }

// Tarjan's strongly connected components, without recursion: path[] holds where the search is, low[] the lowest number
// reached.
static void components(struct flow *f) {
  int number = 0, depth = 0, top = 0, n_components = 0;
  for (int i = 0; i < f->n; i++) f->order[i] = f->component[i] = NONE, f->on_stack[i] = false;
  for (int root = 0; root < f->n; root++) {
    if (f->order[root] != NONE) continue;
    f->path[depth++] = root;
    while (depth) {
      const int i = f->path[depth - 1];
      if (f->order[i] == NONE) {
        f->order[i] = f->low[i] = number++;
        f->stack[top++] = i, f->on_stack[i] = true;
      }
      int deeper = NONE;
      for (int way = 0; way < 2; way++) {
        const int to = follow(f, i, way);
        if (to == NONE) continue;
        if (f->order[to] == NONE)
          deeper = to;
        else if (f->on_stack[to] && f->low[to] < f->low[i]) // also of what has been searched since
          f->low[i] = f->low[to];
      }
      if (deeper != NONE) {
        f->path[depth++] = deeper;
        continue;
      }
      depth--;
      if (f->low[i] != f->order[i]) continue;
      for (int member = NONE; member != i;) {
        member = f->stack[--top];
        f->on_stack[member] = false, f->component[member] = n_components;
      }
      n_components++;
    }
  }
}

// The shortest way from header back to it that passes a wgmma and stays in its component. Nodes n and above are those
// behind a wgmma. Returns its length or NONE; its nodes are found from *last through from[].
static int way_round(const struct flow *f, struct nest *t, int header, int *last) {
  const int start = header + (f->kind[header] == WGMMA ? f->n : 0);
  int head = 0, tail = 0;
  for (int i = 0; i < 2 * f->n; i++) t->from[i] = NONE;
  t->queue[tail++] = start;
  while (head < tail) {
    const int at = t->queue[head++], i = at % f->n, behind = at / f->n;
    for (int way = 0; way < 2; way++) {
      const int to = f->next[way][i];
      if (to == NONE || t->component[to] != t->component[header]) continue;
      if (to == header && behind) {
        int length = 1;
        for (int back = *last = at; back != start; back = t->from[back]) length++;
        return length;
      }
      const int next = to + (behind || f->kind[to] == WGMMA ? f->n : 0);
      if (next == start || t->from[next] != NONE) continue;
      t->from[next] = at;
      t->queue[tail++] = next;
    }
  }
  return NONE;
}

static void count_local(const struct flow *f, const struct nest *t, int header, int last, struct sass_report *r) {
  const int start = header + (f->kind[header] == WGMMA ? f->n : 0);
  int local = 0, first = f->n;
  for (int at = last;; at = t->from[at]) {
    const int i = at % f->n;
    if (f->kind[i] == LOCAL) local++, first = i < first ? i : first;
    if (at == start) break;
  }
  if (local > r->local) r->local = local, r->first = first * INSTRUCTION;
}

// A loop that is entered in several places has several headers: the shortest way round of all is its own.
static void look_round(const struct flow *f, struct nest *t, int component, struct sass_report *r) {
  enum { MOST_HEADERS = 16 };
  int best = NONE, shortest = 0, headers = 0, last;
  for (int i = 0; i < f->n && headers < MOST_HEADERS; i++) {
    if (t->component[i] != component || !t->header[i]) continue;
    headers++;
    const int length = way_round(f, t, i, &last);
    if (length != NONE && (best == NONE || length < shortest)) best = i, shortest = length;
  }
  if (best == NONE) return;
  r->loops++;
  way_round(f, t, best, &last);
  count_local(f, t, best, last, r);
}

// ---- nesting ----

static bool in_loop(const struct flow *f, int i) {
  for (int way = 0; way < 2; way++) {
    const int to = follow(f, i, way);
    if (to != NONE && f->component[to] == f->component[i]) return true;
  }
  return false;
}

// From the components as they are now.
static bool find_loops(const struct flow *f, struct nest *t) {
  bool any = false;
  memset(t->header, 0, (size_t)f->n);
  memset(t->wgmma, 0, (size_t)f->n);
  memset(t->outer, 0, (size_t)f->n);
  memcpy(t->component, f->component, (size_t)f->n * sizeof(int));
  for (int i = 0; i < f->n; i++) {
    for (int way = 0; way < 2; way++) {
      const int to = f->next[way][i];
      if (to != NONE && f->component[to] != f->component[i]) t->header[to] = true;
    }
    if (f->kind[i] == WGMMA && in_loop(f, i)) any = t->wgmma[f->component[i]] = true;
  }
  return any;
}

static void cut_at_headers(struct flow *f, const struct nest *t) {
  for (int i = 0; i < f->n; i++)
    for (int way = 0; way < 2; way++) {
      const int to = f->next[way][i];
      if (to != NONE && t->header[to] && t->component[i] == t->component[to]) f->cut[way][i] = true;
    }
}

static void scan(struct flow *f, struct nest *t, struct sass_report *r) {
  enum { DEEPEST = 12 };
  components(f);
  for (int depth = 0; depth < DEEPEST && find_loops(f, t); depth++) {
    cut_at_headers(f, t);
    components(f);
    for (int i = 0; i < f->n; i++)
      if (f->kind[i] == WGMMA && in_loop(f, i)) t->outer[t->component[i]] = true;
    for (int c = 0; c < f->n; c++)
      if (t->wgmma[c] && !t->outer[c]) look_round(f, t, c, r);
  }
}

// ---- the cubin ----

static bool scan_text(const unsigned char *text, size_t len, struct sass_report *r) {
  const size_t n = len / INSTRUCTION;
  if (!n || n > MOST_INSTRUCTIONS) return false;
  enum { INTS = 12, BOOLS = 6 };
  int *ints = malloc(n * INTS * sizeof *ints), *i = ints;
  bool *bools = calloc(n, BOOLS), *b = bools;
  enum kind *kind = malloc(n * sizeof *kind);
  bool ok = ints && bools && kind;
  if (ok) {
    struct flow f = {(int)n,    {i, i + n}, kind,      i + 2 * n, {b, b + n},
                     i + 3 * n, i + 4 * n,  i + 5 * n, i + 6 * n, b + 2 * n};
    struct nest t = {i + 7 * n, b + 3 * n, b + 4 * n, b + 5 * n, i + 8 * n, i + 10 * n};
    ok = read_flow(text, &f);
    if (ok) scan(&f, &t, r);
  }
  free(ints);
  free(bools);
  free(kind);
  return ok;
}

static bool inside(uint64_t at, uint64_t bytes, size_t len) { return at <= len && bytes <= len - at; }

bool sass_scan(const void *cubin, size_t len, struct sass_report *r) {
  const unsigned char *file = cubin;
  Elf64_Ehdr h;
  *r = (struct sass_report){0};
  if (len < sizeof h) return false;
  memcpy(&h, file, sizeof h);
  if (memcmp(h.e_ident, ELFMAG, SELFMAG) || h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_machine != CUDA_MACHINE ||
      h.e_shentsize != sizeof(Elf64_Shdr) || !inside(h.e_shoff, (uint64_t)h.e_shnum * sizeof(Elf64_Shdr), len))
    return false;
  bool ok = false;
  for (int n = 0; n < h.e_shnum; n++) {
    Elf64_Shdr s;
    memcpy(&s, file + h.e_shoff + (size_t)n * sizeof s, sizeof s);
    if (s.sh_type != SHT_PROGBITS || !(s.sh_flags & SHF_EXECINSTR)) continue;
    ok = inside(s.sh_offset, s.sh_size, len) && scan_text(file + s.sh_offset, s.sh_size, r);
    if (!ok) break;
  }
  if (!ok) *r = (struct sass_report){0};
  return ok;
}
