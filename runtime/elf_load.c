// Places a checked ELF object in code memory and relocates it. Image: text sections, stubs | GOT, data sections.
#include "jit.h"

#include "code_memory.h"
#include "elf_object.h"
#include "perf_map.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

enum { STUB_SIZE = 16, GOT_SIZE = 8 };

// All that generated code may call outside of itself: what libtcc emits for aggregates.
static const struct external {
  const char *name;
  void *address;
} externals[] = {
    {"memcpy", (void *)memcpy},
    {"memmove", (void *)memmove},
    {"memset", (void *)memset},
};

struct export {
  size_t name; // offset in names
  void *address;
};

struct jit_module {
  struct code_memory memory;
  struct export *exports;
  char *names;
  size_t n_exports;
};

// Per symbol, while loading.
struct slot {
  uint32_t got, stub; // 1 + index; 0: none
};

struct loader {
  struct elf_object elf;
  struct slot *slots;
  uint32_t n_got, n_stubs;
  uint64_t stubs_at, got_at; // offsets in the image
  struct code_memory *memory;
};

enum kind { ABSOLUTE, RELATIVE, CALL, GOT };
static const struct relocation_type {
  uint32_t type;
  enum kind kind;
  unsigned width; // bytes
  bool is_signed;
} relocation_types[] = {
    {R_X86_64_PC32, RELATIVE, 4, true}, {R_X86_64_PLT32, CALL, 4, true},        {R_X86_64_64, ABSOLUTE, 8, false},
    {R_X86_64_32, ABSOLUTE, 4, false},  {R_X86_64_32S, ABSOLUTE, 4, true},      {R_X86_64_GOTPCREL, GOT, 4, true},
    {R_X86_64_GOTPCRELX, GOT, 4, true}, {R_X86_64_REX_GOTPCRELX, GOT, 4, true},
};

static const struct relocation_type *relocation_type(uint32_t type) {
  for (size_t i = 0; i < sizeof relocation_types / sizeof *relocation_types; i++)
    if (relocation_types[i].type == type) return &relocation_types[i];
  return NULL;
}

static void *external_address(const char *name) {
  for (size_t i = 0; i < sizeof externals / sizeof *externals; i++)
    if (strcmp(externals[i].name, name) == 0) return externals[i].address;
  return NULL;
}

static int check_symbol(const struct loader *l, const struct elf_symbol *s, struct error *err) {
  if (s->section == SHN_UNDEF) {
    if (external_address(s->name)) return STROBE_OK;
    return fail(err, STROBE_INVALID, "\"%.100s\" is not defined; a kernel may call memcpy, memmove and memset only",
                s->name);
  }
  if (s->section < l->elf.n_sections && l->elf.sections[s->section].loaded) return STROBE_OK;
  return fail(err, STROBE_INVALID, "a relocation names \"%.100s\", which is not part of the image", s->name);
}

// Checks relocation i of table t and gives its symbol the GOT entry or stub that it needs.
static int prepare_relocation(struct loader *l, uint32_t t, uint32_t i, struct error *err) {
  struct elf_relocation r;
  const struct elf_section *target = &l->elf.sections[l->elf.sections[t].info];
  if (!elf_relocation(&l->elf, t, i, &r))
    return fail(err, STROBE_INVALID, "relocation %u of section %u names symbol %u of %u", i, t, r.symbol,
                l->elf.n_symbols);
  const struct relocation_type *type = relocation_type(r.type);
  if (!type)
    return fail(err, STROBE_INVALID, "relocation %u of section %u has type %u, which is not supported", i, t, r.type);
  if (r.offset > target->size || type->width > target->size - r.offset)
    return fail(err, STROBE_INVALID, "relocation %u of section %u lies outside of its section", i, t);
  const struct elf_symbol *symbol = &l->elf.symbols[r.symbol];
  int status = check_symbol(l, symbol, err);
  if (status) return status;
  struct slot *slot = &l->slots[r.symbol];
  bool near = type->kind == RELATIVE || type->kind == CALL;
  if (type->kind == GOT && !slot->got) slot->got = ++l->n_got;
  if (near && symbol->section == SHN_UNDEF && !slot->stub) slot->stub = ++l->n_stubs;
  return STROBE_OK;
}

static int prepare_relocations(struct loader *l, struct error *err) {
  for (uint32_t t = 0; t < l->elf.n_sections; t++) {
    uint32_t n = elf_n_relocations(&l->elf, t);
    for (uint32_t i = 0; i < n; i++) {
      int status = prepare_relocation(l, t, i, err);
      if (status) return status;
    }
  }
  return STROBE_OK;
}

static uint64_t align_up(uint64_t at, uint64_t align) { return (at + align - 1) & ~(align - 1); }

// Sections with (executable) or without SHF_EXECINSTR, one after another from `at`; returns the end.
static uint64_t place_sections(struct elf_object *elf, bool executable, uint64_t at) {
  for (uint32_t i = 0; i < elf->n_sections; i++) {
    struct elf_section *s = &elf->sections[i];
    if (!s->loaded || executable != !!(s->flags & SHF_EXECINSTR)) continue;
    s->at = align_up(at, s->align);
    at = s->at + s->size;
  }
  return at;
}

// All sizes are bounded by the object's length (< 2 GB), so nothing here overflows.
static int place(struct loader *l, struct error *err) {
  l->stubs_at = align_up(place_sections(&l->elf, true, 0), STUB_SIZE);
  uint64_t text = l->stubs_at + (uint64_t)l->n_stubs * STUB_SIZE;
  uint64_t got = (uint64_t)l->n_got * GOT_SIZE;
  uint64_t data = place_sections(&l->elf, false, got);
  int status = code_memory_open(l->memory, text, data, err);
  if (status) return status;
  l->got_at = l->memory->text_size;
  for (uint32_t i = 0; i < l->elf.n_sections; i++) {
    struct elf_section *s = &l->elf.sections[i];
    if (!s->loaded) continue;
    if (!(s->flags & SHF_EXECINSTR)) s->at += l->memory->text_size;
    memcpy(l->memory->view + s->at, l->elf.bytes + s->offset, s->size);
  }
  return STROBE_OK;
}

static uint64_t symbol_address(const struct loader *l, uint32_t i) {
  const struct elf_symbol *s = &l->elf.symbols[i];
  if (s->section == SHN_UNDEF) return (uint64_t)(uintptr_t)external_address(s->name);
  return (uint64_t)(uintptr_t)l->memory->base + l->elf.sections[s->section].at + s->value;
}

static void fill_slots(const struct loader *l) {
  for (uint32_t i = 0; i < l->elf.n_symbols; i++) {
    const struct slot *slot = &l->slots[i];
    uint64_t address = slot->got || slot->stub ? symbol_address(l, i) : 0;
    if (slot->got) memcpy(l->memory->view + l->got_at + (slot->got - 1ull) * GOT_SIZE, &address, sizeof address);
    if (slot->stub) {
      static const unsigned char jmp[6] = {0xff, 0x25, 0, 0, 0, 0}; // jmp *0(%rip): libc may be out of reach of a call
      unsigned char *stub = l->memory->view + l->stubs_at + (slot->stub - 1ull) * STUB_SIZE;
      memcpy(stub, jmp, sizeof jmp);
      memcpy(stub + sizeof jmp, &address, sizeof address);
    }
  }
}

// System V ABI, AMD64 supplement, 4.4: S + A, S + A - P, L + A - P, G + GOT + A - P.
static int relocate(const struct loader *l, uint32_t t, uint32_t i, struct error *err) {
  struct elf_relocation r;
  elf_relocation(&l->elf, t, i, &r);
  const struct relocation_type *type = relocation_type(r.type);
  const struct slot *slot = &l->slots[r.symbol];
  uint64_t base = (uint64_t)(uintptr_t)l->memory->base;
  uint64_t at = l->elf.sections[l->elf.sections[t].info].at + r.offset;
  uint64_t value = type->kind == GOT ? base + l->got_at + (slot->got - 1ull) * GOT_SIZE : symbol_address(l, r.symbol);
  if ((type->kind == RELATIVE || type->kind == CALL) && slot->stub)
    value = base + l->stubs_at + (slot->stub - 1ull) * STUB_SIZE;
  value += (uint64_t)r.addend;
  if (type->kind != ABSOLUTE) value -= base + at;
  if (type->width == 4 && (type->is_signed ? (int64_t)value != (int32_t)value : value > UINT32_MAX))
    return fail(err, STROBE_INVALID, "relocation %u of section %u to \"%.100s\" does not fit in 32 bits", i, t,
                l->elf.symbols[r.symbol].name);
  memcpy(l->memory->view + at, &value, type->width); // little endian, as the machine is
  return STROBE_OK;
}

static int relocate_all(const struct loader *l, struct error *err) {
  fill_slots(l);
  for (uint32_t t = 0; t < l->elf.n_sections; t++) {
    uint32_t n = elf_n_relocations(&l->elf, t);
    for (uint32_t i = 0; i < n; i++) {
      int status = relocate(l, t, i, err);
      if (status) return status;
    }
  }
  return STROBE_OK;
}

static bool is_export(const struct elf_object *elf, const struct elf_symbol *s) {
  return s->binding != STB_LOCAL && s->section != SHN_UNDEF && s->section < elf->n_sections &&
         elf->sections[s->section].loaded && s->name[0];
}

static int collect_exports(const struct loader *l, struct jit_module *m, struct error *err) {
  const struct elf_object *elf = &l->elf;
  struct buf names = {0};
  size_t n = 0;
  m->exports = calloc(elf->n_symbols + 1u, sizeof *m->exports);
  if (!m->exports) return fail(err, STROBE_NO_MEMORY, "no memory for %u symbols", elf->n_symbols);
  for (uint32_t i = 0; i < elf->n_symbols && names.len <= elf->len; i++) {
    const struct elf_symbol *s = &elf->symbols[i];
    if (!is_export(elf, s)) continue;
    m->exports[n++] = (struct export){names.len, (void *)(uintptr_t)symbol_address(l, i)};
    buf_add(&names, s->name, strlen(s->name) + 1);
  }
  m->names = names.data; // freed with the module
  m->n_exports = n;
  if (names.failed) return fail(err, STROBE_NO_MEMORY, "no memory for the names of %zu symbols", n);
  // Names may share bytes; a file made of that would cost quadratic time and memory.
  return names.len > elf->len ? fail(err, STROBE_INVALID, "names of symbols overlap") : STROBE_OK;
}

static void name_for_perf(const struct loader *l, const char *object) {
  struct perf_map map;
  if (!perf_map_wanted()) return;
  perf_map_begin(&map);
  for (uint32_t i = 0; i < l->elf.n_symbols; i++) {
    const struct elf_symbol *s = &l->elf.symbols[i];
    if (s->type != STT_FUNC || s->size == 0 || s->section >= l->elf.n_sections || !l->elf.sections[s->section].loaded)
      continue;
    perf_map_add(&map, symbol_address(l, i), s->size, s->binding == STB_LOCAL ? object : NULL, s->name);
  }
  perf_map_end(&map);
}

static int load(struct loader *l, const char *name, struct jit_module *m, struct error *err) {
  l->memory = &m->memory;
  l->slots = calloc(l->elf.n_symbols + 1u, sizeof *l->slots);
  if (!l->slots) return fail(err, STROBE_NO_MEMORY, "no memory for %u symbols", l->elf.n_symbols);
  int status = prepare_relocations(l, err);
  if (!status) status = place(l, err);
  if (!status) status = relocate_all(l, err);
  if (!status) status = collect_exports(l, m, err);
  if (!status) status = code_memory_seal(&m->memory, err);
  if (!status) name_for_perf(l, name);
  return status;
}

int jit_load(const void *object, size_t len, const char *name, struct jit_module **out, struct error *err) {
  struct loader l = {0};
  struct error why = {0};
  *out = NULL;
  struct jit_module *m = calloc(1, sizeof *m);
  if (!m) return fail(err, STROBE_NO_MEMORY, "%s: no memory for a module", name);
  m->memory.fd = -1;
  int status = elf_parse(&l.elf, object, len, &why);
  if (!status) {
    status = load(&l, name, m, &why);
    elf_free(&l.elf);
  }
  free(l.slots);
  if (status) {
    jit_unload(m);
    return fail(err, (enum strobe_status)status, "%.100s: %s", name, why.text);
  }
  *out = m;
  return STROBE_OK;
}

void *jit_symbol(const struct jit_module *m, const char *symbol) {
  for (size_t i = 0; i < m->n_exports; i++)
    if (strcmp(m->names + m->exports[i].name, symbol) == 0) return m->exports[i].address;
  return NULL;
}

void jit_unload(struct jit_module *m) {
  if (!m) return;
  code_memory_close(&m->memory);
  free(m->exports);
  free(m->names);
  free(m);
}
