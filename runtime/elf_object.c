#include "elf_object.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SECTIONS = 1024, MAX_ALIGN = 4096 };

static bool inside(uint64_t offset, uint64_t size, uint64_t len) { return offset <= len && size <= len - offset; }

static int check_header(const Elf64_Ehdr *h, size_t len, struct error *err) {
  static const unsigned char ident[] = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT};
  if (memcmp(h->e_ident, ident, sizeof ident) || h->e_type != ET_REL || h->e_machine != EM_X86_64)
    return fail(err, STROBE_INVALID, "not an ELF relocatable object for x86-64");
  if (h->e_shentsize != sizeof(Elf64_Shdr) || h->e_shnum == 0 || h->e_shnum > MAX_SECTIONS)
    return fail(err, STROBE_INVALID, "%u section headers of %u bytes: 1 to %d of %zu are allowed", h->e_shnum,
                h->e_shentsize, MAX_SECTIONS, sizeof(Elf64_Shdr));
  if (!inside(h->e_shoff, (uint64_t)h->e_shnum * sizeof(Elf64_Shdr), len))
    return fail(err, STROBE_INVALID, "the section headers lie outside of the object's %zu bytes", len);
  return STROBE_OK;
}

// What must not be part of the image.
static const char *refuse_loaded(const struct elf_section *s) {
  if (s->flags & SHF_TLS) return "is thread-local; a kernel has no state";
  if (s->type == SHT_NOBITS) return "is a .bss with content; a kernel has no state";
  if (s->type == SHT_INIT_ARRAY || s->type == SHT_FINI_ARRAY || s->type == SHT_PREINIT_ARRAY)
    return "holds constructors or destructors; a kernel has none";
  if ((s->flags & SHF_WRITE) && (s->flags & SHF_EXECINSTR)) return "is writable and executable";
  if (s->flags & SHF_COMPRESSED) return "is compressed";
  if (s->align > MAX_ALIGN || (s->align & (s->align - 1))) return "has an alignment that is no power of two up to 4096";
  return NULL;
}

static bool is_loaded(const struct elf_section *s) {
  static const uint32_t types[] = {SHT_PROGBITS, SHT_NOBITS, SHT_INIT_ARRAY, SHT_FINI_ARRAY, SHT_PREINIT_ARRAY};
  if (!(s->flags & SHF_ALLOC) || s->size == 0) return false;
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (s->type == types[i]) return true;
  return false;
}

static int read_sections(struct elf_object *elf, uint64_t table, struct error *err) {
  uint64_t loaded = 0;
  for (uint32_t i = 0; i < elf->n_sections; i++) {
    Elf64_Shdr h;
    memcpy(&h, elf->bytes + table + i * sizeof h, sizeof h);
    struct elf_section *s = &elf->sections[i];
    *s = (struct elf_section){.type = h.sh_type,
                              .link = h.sh_link,
                              .info = h.sh_info,
                              .flags = h.sh_flags,
                              .offset = h.sh_offset,
                              .size = h.sh_size,
                              .align = h.sh_addralign ? h.sh_addralign : 1};
    if (s->type == SHT_NULL) continue;
    s->loaded = is_loaded(s);
    const char *why = s->loaded ? refuse_loaded(s) : NULL;
    if (why) return fail(err, STROBE_INVALID, "section %u %s", i, why);
    if (s->type != SHT_NOBITS && !inside(s->offset, s->size, elf->len))
      return fail(err, STROBE_INVALID, "section %u lies outside of the object's %zu bytes", i, elf->len);
    loaded += s->loaded ? s->size : 0; // at most 1024 times len
    if (s->type == SHT_SYMTAB) elf->symtab = i;
  }
  if (loaded > elf->len) return fail(err, STROBE_INVALID, "sections overlap");
  return STROBE_OK;
}

// A table of whole entries; relocation tables count together against the file so that overlapping ones cost no time.
static bool is_table(const struct elf_section *s, size_t entry) { return s->size % entry == 0; }

static int check_relocations(const struct elf_object *elf, struct error *err) {
  uint64_t total = 0;
  for (uint32_t i = 0; i < elf->n_sections; i++) {
    const struct elf_section *s = &elf->sections[i];
    if (s->type != SHT_RELA && s->type != SHT_REL) continue;
    if (s->info >= elf->n_sections || !elf->sections[s->info].loaded) continue;
    if (s->type == SHT_REL || s->link != elf->symtab || elf->symtab == 0 || !is_table(s, sizeof(Elf64_Rela)))
      return fail(err, STROBE_INVALID, "section %u is not a table of relocations with addends", i);
    total += s->size;
  }
  return total > elf->len ? fail(err, STROBE_INVALID, "relocation tables overlap") : STROBE_OK;
}

static int read_symbol(const struct elf_object *elf, const struct elf_section *strings, uint32_t i,
                       struct elf_symbol *out, struct error *err) {
  Elf64_Sym s;
  memcpy(&s, elf->bytes + elf->sections[elf->symtab].offset + i * sizeof s, sizeof s);
  if (s.st_name >= strings->size)
    return fail(err, STROBE_INVALID, "the name of symbol %u lies outside of its table", i);
  *out = (struct elf_symbol){.name = (const char *)elf->bytes + strings->offset + s.st_name,
                             .value = s.st_value,
                             .size = s.st_size,
                             .section = s.st_shndx,
                             .type = ELF64_ST_TYPE(s.st_info),
                             .binding = ELF64_ST_BIND(s.st_info)};
  if (s.st_shndx == SHN_COMMON)
    return fail(err, STROBE_INVALID, "\"%.100s\" is a COMMON symbol; a kernel has no state", out->name);
  if (s.st_shndx >= SHN_LORESERVE || s.st_shndx == SHN_UNDEF) return STROBE_OK;
  if (s.st_shndx >= elf->n_sections ||
      (elf->sections[s.st_shndx].loaded && !inside(s.st_value, s.st_size, elf->sections[s.st_shndx].size)))
    return fail(err, STROBE_INVALID, "\"%.100s\" lies outside of its section", out->name);
  return STROBE_OK;
}

static int read_symbols(struct elf_object *elf, struct error *err) {
  if (elf->symtab == 0) return STROBE_OK;
  const struct elf_section *table = &elf->sections[elf->symtab];
  if (!is_table(table, sizeof(Elf64_Sym)) || table->link >= elf->n_sections)
    return fail(err, STROBE_INVALID, "the symbol table is malformed");
  const struct elf_section *strings = &elf->sections[table->link];
  if (strings->type != SHT_STRTAB || strings->size == 0 || elf->bytes[strings->offset + strings->size - 1] != 0)
    return fail(err, STROBE_INVALID, "the symbols' string table is malformed");
  elf->n_symbols = (uint32_t)(table->size / sizeof(Elf64_Sym));
  elf->symbols = calloc(elf->n_symbols + 1u, sizeof *elf->symbols);
  if (!elf->symbols) return fail(err, STROBE_NO_MEMORY, "no memory for %u symbols", elf->n_symbols);
  for (uint32_t i = 0; i < elf->n_symbols; i++) {
    int status = read_symbol(elf, strings, i, &elf->symbols[i], err);
    if (status) return status;
  }
  return STROBE_OK;
}

int elf_parse(struct elf_object *elf, const void *bytes, size_t len, struct error *err) {
  Elf64_Ehdr header;
  *elf = (struct elf_object){.bytes = bytes, .len = len};
  if (len < sizeof header || len > INT32_MAX)
    return fail(err, STROBE_INVALID, "an object of %zu bytes: %zu to %d are allowed", len, sizeof header, INT32_MAX);
  memcpy(&header, bytes, sizeof header);
  int status = check_header(&header, len, err);
  if (status) return status;
  elf->n_sections = header.e_shnum;
  elf->sections = calloc(elf->n_sections, sizeof *elf->sections);
  if (!elf->sections) return fail(err, STROBE_NO_MEMORY, "no memory for %u sections", elf->n_sections);
  status = read_sections(elf, header.e_shoff, err);
  if (!status) status = check_relocations(elf, err);
  if (!status) status = read_symbols(elf, err);
  if (status) elf_free(elf);
  return status;
}

void elf_free(struct elf_object *elf) {
  free(elf->sections);
  free(elf->symbols);
  *elf = (struct elf_object){0};
}

uint32_t elf_n_relocations(const struct elf_object *elf, uint32_t s) {
  const struct elf_section *table = &elf->sections[s];
  if (table->type != SHT_RELA || table->info >= elf->n_sections || !elf->sections[table->info].loaded) return 0;
  return (uint32_t)(table->size / sizeof(Elf64_Rela));
}

bool elf_relocation(const struct elf_object *elf, uint32_t s, uint32_t i, struct elf_relocation *out) {
  Elf64_Rela r;
  memcpy(&r, elf->bytes + elf->sections[s].offset + i * sizeof r, sizeof r);
  *out = (struct elf_relocation){.offset = r.r_offset,
                                 .addend = r.r_addend,
                                 .type = (uint32_t)ELF64_R_TYPE(r.r_info),
                                 .symbol = (uint32_t)ELF64_R_SYM(r.r_info)};
  return out->symbol < elf->n_symbols;
}
