#include "expr.h"

#include <string.h>

enum { MAX_DEPTH = 64 };

static bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static void skip(struct expr *e) {
  while (e->p < e->end && (*e->p == ' ' || *e->p == '\t')) e->p++;
}

bool expr_take(struct expr *e, const char *word) {
  skip(e);
  if (!*word) return true;
  if (e->p == e->end || *e->p != *word) return false;
  size_t n = strlen(word);
  if ((size_t)(e->end - e->p) < n || memcmp(e->p, word, n)) return false;
  if (is_name_start(word[n - 1]) && e->p + n < e->end && (is_name_start(e->p[n]) || is_digit(e->p[n]))) return false;
  e->p += n;
  return true;
}

size_t expr_name(struct expr *e, const char **name) {
  skip(e);
  *name = e->p;
  if (e->p < e->end && is_name_start(*e->p))
    while (e->p < e->end && (is_name_start(*e->p) || is_digit(*e->p))) e->p++;
  return (size_t)(e->p - *name);
}

static struct value integer(int64_t i) { return (struct value){.integer = i}; }

static int want_integer(struct expr *e, const struct value *v, const char *where) {
  if (!v->is_string || e->dead) return 0;
  return fail(e->err, STROBE_INVALID, "%s needs an integer, not the string \"%.*s\"", where,
              (int)(v->len > 60 ? 60 : v->len), v->text);
}

static int overflow(struct expr *e, const char *op) { return fail(e->err, STROBE_INVALID, "%s overflows 64 bits", op); }

// ---- operators ----

enum operation { MUL, DIV, MOD, ADD, SUB, SHL, SHR, LT, LE, GT, GE, EQ, NE, AND, XOR, OR };
static const struct binary {
  const char *text;
  int precedence;
  enum operation op;
} binaries[] = {
    // longer texts first
    {"<<", 7, SHL}, {">>", 7, SHR}, {"<=", 6, LE}, {">=", 6, GE}, {"==", 5, EQ}, {"!=", 5, NE},
    {"*", 9, MUL},  {"/", 9, DIV},  {"%", 9, MOD}, {"+", 8, ADD}, {"-", 8, SUB}, {"<", 6, LT},
    {">", 6, GT},   {"&", 4, AND},  {"^", 3, XOR}, {"|", 2, OR},
};

static const struct binary *next_binary(struct expr *e) {
  skip(e);
  size_t left = (size_t)(e->end - e->p);
  if (!left || is_name_start(*e->p) || is_digit(*e->p) || *e->p == ')' || *e->p == ',' || *e->p == '.') return NULL;
  for (size_t i = 0; i < sizeof binaries / sizeof binaries[0]; i++) {
    if (binaries[i].text[0] != *e->p) continue;
    size_t n = strlen(binaries[i].text);
    if (left < n || memcmp(e->p, binaries[i].text, n)) continue;
    if (n == 1 && left > 1 && (*e->p == '&' || *e->p == '|') && e->p[1] == *e->p) return NULL; // && and ||
    return &binaries[i];
  }
  return NULL;
}

static int divide(struct expr *e, bool remainder, int64_t a, int64_t b, struct value *out) {
  if (b == 0) return fail(e->err, STROBE_INVALID, "division by zero");
  if (a == INT64_MIN && b == -1) return overflow(e, remainder ? "%" : "/");
  *out = integer(remainder ? a % b : a / b);
  return 0;
}

static int shift(struct expr *e, bool left, int64_t a, int64_t n, struct value *out) {
  if (n < 0 || n > 62) return fail(e->err, STROBE_INVALID, "shift by %lld: 0 to 62 is allowed", (long long)n);
  if (!left) return *out = integer(a >> n), 0;
  int64_t r;
  if (__builtin_mul_overflow(a, (int64_t)1 << n, &r)) return overflow(e, "<<");
  return *out = integer(r), 0;
}

static int apply(struct expr *e, const struct binary *b, const struct value *x, const struct value *y,
                 struct value *out) {
  *out = integer(0);
  if (e->dead) return 0;
  if ((b->op == EQ || b->op == NE) && x->is_string && y->is_string) {
    bool same = x->len == y->len && !memcmp(x->text, y->text, x->len);
    return *out = integer(same == (b->op == EQ)), 0;
  }
  int status = want_integer(e, x, b->text);
  if (status || (status = want_integer(e, y, b->text))) return status;
  int64_t a = x->integer, c = y->integer, r = 0;
  switch (b->op) {
  case MUL: return __builtin_mul_overflow(a, c, &r) ? overflow(e, "*") : (*out = integer(r), 0);
  case ADD: return __builtin_add_overflow(a, c, &r) ? overflow(e, "+") : (*out = integer(r), 0);
  case SUB: return __builtin_sub_overflow(a, c, &r) ? overflow(e, "-") : (*out = integer(r), 0);
  case DIV: return divide(e, false, a, c, out);
  case MOD: return divide(e, true, a, c, out);
  case SHL: return shift(e, true, a, c, out);
  case SHR: return shift(e, false, a, c, out);
  case LT: r = a < c; break;
  case LE: r = a <= c; break;
  case GT: r = a > c; break;
  case GE: r = a >= c; break;
  case EQ: r = a == c; break;
  case NE: r = a != c; break;
  case AND: r = a & c; break;
  case XOR: r = a ^ c; break;
  case OR: r = a | c; break;
  }
  return *out = integer(r), 0;
}

// ---- functions ----

static int call_join(struct expr *e, struct value *out) {
  const char *name;
  size_t len = expr_name(e, &name);
  struct value from, to, separator, text;
  int status;
  if (!len || !expr_take(e, ","))
    return fail(e->err, STROBE_INVALID, "join is written join(I, A..B, \"separator\", \"text\")");
  if ((status = expr_parse(e, &from))) return status;
  if (!expr_take(e, "..")) return fail(e->err, STROBE_INVALID, "join: expected .. after %lld", (long long)from.integer);
  if ((status = expr_parse(e, &to))) return status;
  if (!expr_take(e, ",")) return fail(e->err, STROBE_INVALID, "join: expected a separator");
  if ((status = expr_parse(e, &separator))) return status;
  if (!expr_take(e, ",")) return fail(e->err, STROBE_INVALID, "join: expected the text to repeat");
  if ((status = expr_parse(e, &text))) return status;
  if (!expr_take(e, ")")) return fail(e->err, STROBE_INVALID, "join: missing )");
  if (from.is_string || to.is_string || !separator.is_string || !text.is_string)
    return fail(e->err, STROBE_INVALID, "join takes two integers and two strings");
  *out = (struct value){.is_string = true, .text = ""};
  return e->dead ? 0 : e->join(e->context, name, len, from.integer, to.integer, separator, text, out, e->err);
}

static int log2_exact(struct expr *e, int64_t x, struct value *out) {
  if (x <= 0 || (x & (x - 1))) return fail(e->err, STROBE_INVALID, "log2(%lld): only powers of two", (long long)x);
  *out = integer(63 - __builtin_clzll((unsigned long long)x));
  return 0;
}

static int call(struct expr *e, const char *name, size_t len, struct value *out) {
  static const struct {
    const char *name;
    int arguments;
  } functions[] = {{"min", 2}, {"max", 2}, {"ceil_div", 2}, {"abs", 1}, {"log2", 1}};
  if (len == 4 && !memcmp(name, "join", 4)) return call_join(e, out);
  for (size_t f = 0; f < sizeof functions / sizeof functions[0]; f++) {
    if (strlen(functions[f].name) != len || memcmp(name, functions[f].name, len)) continue;
    struct value v[2] = {integer(0), integer(1)};
    for (int i = 0; i < functions[f].arguments; i++) {
      if (i && !expr_take(e, ","))
        return fail(e->err, STROBE_INVALID, "%s takes %d arguments", functions[f].name, functions[f].arguments);
      int status = expr_parse(e, &v[i]);
      if (status || (status = want_integer(e, &v[i], functions[f].name))) return status;
    }
    if (!expr_take(e, ")"))
      return fail(e->err, STROBE_INVALID, "%s: missing ) after %d arguments", functions[f].name,
                  functions[f].arguments);
    *out = integer(0);
    if (e->dead) return 0;
    int64_t a = v[0].integer, b = v[1].integer;
    if (f == 0) return *out = integer(a < b ? a : b), 0;
    if (f == 1) return *out = integer(a > b ? a : b), 0;
    if (f == 4) return log2_exact(e, a, out);
    if (f == 3) return a == INT64_MIN ? overflow(e, "abs") : (*out = integer(a < 0 ? -a : a), 0);
    if (a < 0 || b <= 0) return fail(e->err, STROBE_INVALID, "ceil_div needs a >= 0 and b > 0");
    return *out = integer(a / b + (a % b != 0)), 0;
  }
  return fail(e->err, STROBE_INVALID, "%.*s is no function: min, max, abs, log2, ceil_div, join are", (int)len, name);
}

// ---- grammar ----

static int number(struct expr *e, struct value *out) {
  int64_t v = 0;
  while (e->p < e->end && is_digit(*e->p))
    if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *e->p++ - '0', &v)) return overflow(e, "number");
  if (e->p < e->end && is_name_start(*e->p)) return fail(e->err, STROBE_INVALID, "a number runs into '%c'", *e->p);
  *out = integer(v);
  return 0;
}

static int primary(struct expr *e, struct value *out) {
  skip(e);
  if (e->p == e->end) return fail(e->err, STROBE_INVALID, "an expression ends too early");
  if (is_digit(*e->p)) return number(e, out);
  if (*e->p == '"') {
    const char *close = memchr(e->p + 1, '"', (size_t)(e->end - e->p - 1));
    if (!close) return fail(e->err, STROBE_INVALID, "a string has no closing quote");
    *out = (struct value){.is_string = true, .text = e->p + 1, .len = (size_t)(close - e->p - 1)};
    e->p = close + 1;
    return 0;
  }
  if (expr_take(e, "(")) {
    int status = expr_parse(e, out);
    return status ? status : expr_take(e, ")") ? 0 : fail(e->err, STROBE_INVALID, "missing )");
  }
  const char *name;
  size_t len = expr_name(e, &name);
  if (!len) return fail(e->err, STROBE_INVALID, "unexpected '%c' in an expression", *e->p);
  if (e->p < e->end && *e->p == '(') return e->p++, call(e, name, len, out);
  *out = integer(0);
  if (e->dead || e->lookup(e->context, name, len, out, e->err)) return 0;
  return e->err && e->err->status ? (int)e->err->status : STROBE_INVALID; // or memory ran out
}

static int unary(struct expr *e, struct value *out) {
  skip(e);
  char op = e->p < e->end ? *e->p : 0;
  if ((op != '-' && op != '!' && op != '~') || (op == '!' && e->p + 1 < e->end && e->p[1] == '='))
    return primary(e, out);
  e->p++;
  if (++e->depth > MAX_DEPTH) return fail(e->err, STROBE_INVALID, "an expression nests deeper than %d", MAX_DEPTH);
  int status = unary(e, out);
  e->depth--;
  const char text[2] = {op, 0};
  if (status || (status = want_integer(e, out, text))) return status;
  if (op == '-' && out->integer == INT64_MIN) return overflow(e, "-");
  *out = integer(op == '-' ? -out->integer : op == '!' ? !out->integer : ~out->integer);
  return 0;
}

static int binary(struct expr *e, int least, struct value *out) {
  int status = unary(e, out);
  const struct binary *b;
  while (!status && (b = next_binary(e)) && b->precedence >= least) {
    struct value left = *out, right;
    e->p += strlen(b->text);
    if (!(status = binary(e, b->precedence + 1, &right))) status = apply(e, b, &left, &right, out);
  }
  return status;
}

// && and ||, which evaluate their right side only if it matters.
static int logical(struct expr *e, bool is_or, struct value *out) {
  int status = is_or ? logical(e, false, out) : binary(e, 2, out);
  while (!status && expr_take(e, is_or ? "||" : "&&")) {
    if ((status = want_integer(e, out, is_or ? "||" : "&&"))) return status;
    bool left = out->integer != 0, skip_right = left == is_or;
    e->dead += skip_right;
    status = is_or ? logical(e, false, out) : binary(e, 2, out);
    if (!status) status = want_integer(e, out, is_or ? "||" : "&&");
    e->dead -= skip_right;
    *out = integer(skip_right ? left : out->integer != 0);
  }
  return status;
}

int expr_parse(struct expr *e, struct value *out) {
  if (++e->depth > MAX_DEPTH) return fail(e->err, STROBE_INVALID, "an expression nests deeper than %d", MAX_DEPTH);
  int status = logical(e, true, out);
  if (!status && expr_take(e, "?")) {
    struct value yes, no;
    if ((status = want_integer(e, out, "?"))) return status;
    bool condition = out->integer != 0;
    e->dead += !condition;
    status = expr_parse(e, &yes);
    e->dead -= !condition;
    if (status) return status;
    if (!expr_take(e, ":")) return fail(e->err, STROBE_INVALID, "? without :");
    e->dead += condition;
    status = expr_parse(e, &no);
    e->dead -= condition;
    *out = condition ? yes : no;
  }
  e->depth--;
  return status;
}
