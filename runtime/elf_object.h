// An ELF relocatable object, checked and decoded. Its bytes are untrusted: after elf_parse every offset, size, index
// and string below lies inside them.
#ifndef STROBE_ELF_OBJECT_H
#define STROBE_ELF_OBJECT_H

#include "../gen/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct elf_section {
  uint32_t type, link, info;
  uint64_t flags, offset, size,
      align;   // offset + size lies in the file, except for SHT_NOBITS (whose size is 0 if loaded)
  bool loaded; // part of the image
  uint64_t at; // of a loaded section: offset in the image, set by the loader
};

struct elf_symbol {
  const char *name; // NUL-terminated
  uint64_t value, size;
  uint16_t section; // index of a section, or SHN_UNDEF, SHN_ABS ...
  uint8_t type, binding;
};

struct elf_relocation {
  uint64_t offset;
  int64_t addend;
  uint32_t type, symbol; // symbol < n_symbols
};

struct elf_object {
  const unsigned char *bytes;
  size_t len;
  struct elf_section *sections;
  struct elf_symbol *symbols;
  uint32_t n_sections, n_symbols;
  uint32_t symtab; // index of the symbol table's section
};

// Accepts ET_REL for x86-64. The bytes must outlive the object. Refuses COMMON, TLS, a .bss with content, constructors,
// sections that are writable and executable. STROBE_INVALID, STROBE_NO_MEMORY; elf_free is wanted after success only.
int elf_parse(struct elf_object *elf, const void *bytes, size_t len, struct error *err);
void elf_free(struct elf_object *elf);

// Relocations of section s, or 0 when it is not a table that applies to a loaded section.
uint32_t elf_n_relocations(const struct elf_object *elf, uint32_t s);
// Relocation i of section s; false: it names a symbol that does not exist.
bool elf_relocation(const struct elf_object *elf, uint32_t s, uint32_t i, struct elf_relocation *out);

#endif
