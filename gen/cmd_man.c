// The manual page, from the tables that parse the command line and print --help.
#include "options.h"

#include <string.h>

// Text as troff takes it: backslashes and hyphens of options are literal, and no line begins with a control character.
static void text(const char *s, struct buf *out) {
  for (bool start = true; *s; s++) {
    if (start && (*s == '.' || *s == '\'')) buf_str(out, "\\&");
    start = *s == '\n';
    if (*s == '\\')
      buf_str(out, "\\e");
    else if (*s == '-')
      buf_str(out, "\\-");
    else if (*s == '~')
      buf_str(out, "\\(ti");
    else if (*s == '^')
      buf_str(out, "\\(ha");
    else
      buf_char(out, *s);
  }
}

// A line as it stands, in an example or a table.
static void verbatim(const char *s, struct buf *out) {
  buf_str(out, ".PP\n.nf\n.ft CR\n");
  text(s, out);
  if (out->len && out->data[out->len - 1] != '\n') buf_char(out, '\n');
  buf_str(out, ".ft\n.fi\n");
}

static void option(const struct option_row *row, struct buf *out) {
  buf_str(out, ".TP\n");
  if (row->letter) buf_printf(out, "\\fB\\-%c\\fR, ", row->letter);
  buf_str(out, "\\fB\\-\\-");
  text(row->name, out);
  buf_str(out, "\\fR");
  if (row->kind != OPT_FLAG) {
    buf_str(out, row->kind == OPT_CHOICE ? " " : " \\fI");
    text(row->value, out);
    buf_str(out, row->kind == OPT_CHOICE ? "" : "\\fR");
  }
  buf_char(out, '\n');
  text(row->about, out);
  buf_str(out, row->required ? " (required)\n" : "\n");
}

static void synopsis(const struct verb *v, struct buf *out) {
  buf_printf(out, ".br\n.B strobe %s\n", v->name);
  if (*v->operands) buf_str(out, ".I "), text(v->operands, out), buf_char(out, '\n');
  for (int i = 0; i < v->n_rows; i++) {
    if (!v->rows[i].required) continue;
    buf_str(out, "\\fB\\-\\-"), text(v->rows[i].name, out);
    buf_str(out, "\\fR \\fI"), text(v->rows[i].value, out), buf_str(out, "\\fR\n");
  }
  buf_str(out, "[\\fIOPTION\\fR]...\n");
}

static void section(const struct verb *v, struct buf *out) {
  buf_printf(out, ".SS strobe %s\n", v->name);
  text(v->about, out);
  buf_str(out, ".\n");
  if (*v->details) text(v->details, out), buf_char(out, '\n');
  for (int i = 0; i < v->n_rows; i++) option(&v->rows[i], out);
  struct buf more = {0};
  if (v->more) v->more(&more);
  out->failed |= more.failed;
  if (more.len) verbatim(more.data, out);
  buf_free(&more);
  buf_str(out, ".PP\nExample:\n");
  verbatim(v->example, out);
}

static const struct {
  const char *name, *about;
} variables[] = {
    {"OMP_NUM_THREADS", "Threads of the default parallel loop."},
    {"STROBE_DUMP", "A directory: every text that is compiled is written there."},
    {"STROBE_PERF", "1: kernels are named in /tmp/perf-PID.map."},
    {"STROBE_NVRTC", "The file of libnvrtc, where it is not on the loader's path or in /usr/local/cuda."},
    {"XDG_CACHE_HOME", "Compiled CUDA kernels are kept in strobe/ there; else in ~/.cache."},
    {"NO_COLOR", "Not empty: no colours. There are none either where standard output is not a terminal."},
};

void options_man(const struct verb *const *v, int n, const char *version, struct buf *out) {
  buf_printf(out, ".TH STROBE 1 \"\" \"strobe %s\" \"User Commands\"\n", version);
  buf_str(out, ".SH NAME\nstrobe \\- generate, compile, verify and time attention kernels\n.SH SYNOPSIS\n.ad l\n");
  for (int i = 0; i < n; i++) synopsis(v[i], out);
  buf_str(out, ".br\n.B strobe\n\\-\\-help | \\-\\-version | \\-\\-man\n.ad b\n.SH DESCRIPTION\n");
  buf_str(out, "Strobe generates attention kernels: as C files to keep, or as machine code in this process.\n"
               "A SPEC says what a kernel computes, as in d128:bf16:causal; a PROBLEM is a SPEC with sizes, as in\n"
               "d128:bf16:causal:b2h32/8q1024k1024 (batch 2, 32 query heads on 8 key heads, 1024 queries, 1024 keys).\n"
               "Every verb has \\fB\\-\\-help\\fR.\n.SH VERBS\n");
  for (int i = 0; i < n; i++) section(v[i], out);
  buf_str(out, ".SH ENVIRONMENT\n");
  for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
    buf_printf(out, ".TP\n.B %s\n", variables[i].name);
    text(variables[i].about, out);
    buf_char(out, '\n');
  }
  buf_str(out,
          ".SH EXIT STATUS\n0: done. 1: a check failed. 2: bad input, or not supported here; one sentence on standard "
          "error says\nwhat, and nothing was written.\n");
}
