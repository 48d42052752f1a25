// Counts, function by function of an assembly file (AT&T syntax, gcc and clang), the multiply-adds on vectors and the
// vector registers that go to the stack or come from it.
#ifndef STROBE_TESTS_SPILLS_H
#define STROBE_TESTS_SPILLS_H

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FUNCTIONS = 96 };

struct function_spills {
  char name[64];
  int fmas, stores, loads;
};
struct spills {
  struct function_spills f[MAX_FUNCTIONS];
  int n;
};

// A product of matrix tiles counts as the vectors' that it stands for.
static inline int count_fmas(const char *line) {
  if (strstr(line, "tdpbf16ps")) return 256;
  return strstr(line, "vfmadd") || strstr(line, "vfmsub") || strstr(line, "vfnmadd") || strstr(line, "vdpbf16ps");
}

// An operand on the stack; rbp counts where it is a frame pointer.
static inline const char *stack_operand(const char *line, bool frame) {
  const char *at = strstr(line, "(%rsp");
  return at || !frame ? at : strstr(line, "(%rbp");
}

static inline void count_line(struct function_spills *f, const char *line, bool frame) {
  const char *vector = strstr(line, "mm"), *stack = stack_operand(line, frame);
  if (!vector || line[0] != '\t' || line[1] == '.') return;
  f->fmas += count_fmas(line);
  if (!stack) return;
  *(strchr(stack, ')') > vector ? &f->stores : &f->loads) += 1; // the destination is the last operand
}

// False: the file can't be read, or has more functions than fit.
static inline bool count_spills(const char *path, struct spills *s) {
  FILE *file = fopen(path, "r");
  char line[512];
  bool frame = false;
  s->n = 0;
  if (!file) return false;
  while (fgets(line, sizeof line, file)) {
    const size_t name = strcspn(line, ":");
    if ((isalpha((unsigned char)line[0]) || line[0] == '_') && line[name] == ':' && s->n < MAX_FUNCTIONS) {
      struct function_spills *f = &s->f[s->n++];
      *f = (struct function_spills){.name = ""};
      snprintf(f->name, sizeof f->name, "%.*s", (int)name, line);
      frame = false;
    }
    frame = frame || strstr(line, "%rsp, %rbp");
    if (s->n) count_line(&s->f[s->n - 1], line, frame);
  }
  fclose(file);
  return s->n > 0 && s->n < MAX_FUNCTIONS;
}

#endif
