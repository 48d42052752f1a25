// Every instruction that the code printer emits is decoded again and compared with what the printer says it is.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "../gen/kernel.h" // before cmocka.h, which has a macro named fail

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#if STROBE_TCC
#include <Zydis/Zydis.h>

static void operand_text(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *o, struct buf *out) {
  switch (o->type) {
  case ZYDIS_OPERAND_TYPE_REGISTER: buf_str(out, ZydisRegisterGetString(o->reg.value)); break;
  case ZYDIS_OPERAND_TYPE_IMMEDIATE: buf_int(out, o->imm.is_signed ? o->imm.value.s : (int64_t)o->imm.value.u); break;
  case ZYDIS_OPERAND_TYPE_MEMORY:
    buf_printf(out, "[%s", ZydisRegisterGetString(o->mem.base));
    if (o->mem.index) buf_printf(out, " + %d*%s", o->mem.scale, ZydisRegisterGetString(o->mem.index));
    int64_t d = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
    if (d) buf_printf(out, " %c %lld", d < 0 ? '-' : '+', (long long)(d < 0 ? -d : d));
    buf_str(out, insn->avx.broadcast.mode == ZYDIS_BROADCAST_MODE_1_TO_16 && !insn->avx.broadcast.is_static ? "]{1to16}"
                                                                                                            : "]");
    break;
  default: fail_msg("operand of an unexpected type");
  }
}

static void decode(const uint8_t *bytes, size_t len, struct buf *out) {
  ZydisDecoder decoder;
  ZydisDecodedInstruction insn;
  ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, len, &insn, op)));
  assert_int_equal(insn.length, len);
  out->len = 0;
  buf_str(out, ZydisMnemonicGetString(insn.mnemonic));
  ZydisRegister mask = insn.avx.mask.reg;
  int printed = 0;
  for (int i = 0; i < insn.operand_count_visible; i++) {
    if (op[i].encoding == ZYDIS_OPERAND_ENCODING_MASK) continue;
    buf_str(out, printed ? ", " : " ");
    operand_text(&insn, &op[i], out);
    if (!printed++ && mask != ZYDIS_REGISTER_NONE && mask != ZYDIS_REGISTER_K0)
      buf_printf(out, "{%s}%s", ZydisRegisterGetString(mask),
                 insn.avx.mask.mode == ZYDIS_MASK_MODE_ZEROING ? "{z}" : "");
  }
}

// Compares all `.byte` lines of a text with the comments beside them; returns how many there were.
static int check_text(const char *text) {
  struct buf decoded = {0};
  int lines = 0;
  for (const char *c = text; (c = strstr(c, "\".byte ")); lines++) {
    uint8_t bytes[15];
    size_t n = 0;
    for (c += 7; *c == '0';) {
      assert_true(n < 15);
      bytes[n++] = (uint8_t)strtoul(c, (char **)&c, 16);
      if (*c == ',') c++;
    }
    const char *comment = strstr(c, "/* "), *end = comment ? strstr(comment, " */") : NULL;
    assert_non_null(end);
    decode(bytes, n, &decoded);
    struct buf said = {0};
    buf_add(&said, comment + 3, (size_t)(end - comment - 3));
    assert_string_equal(decoded.data, said.data);
    buf_free(&said);
  }
  buf_free(&decoded);
  return lines;
}

static int check_instance(const char *target, const char *spec, const char *config) {
  struct problem p;
  struct config c;
  struct error err = {0};
  config_clear(&c);
  assert_int_equal(problem_parse(spec, &p, &err), 0);
  assert_int_equal(config_parse(config, &c, &err), 0);
  const struct target *t = target_find(target);
  if (config_resolve(&p.spec, t, NULL, &c, &err)) return 0; // infeasible: test_config.c looks at the reason
  struct instance i = {p.spec, c, t};
  struct render_options o = {.printer = PRINTER_CODE, .comments = true, .for_tcc = true};
  struct buf text = {0};
  if (kernel_render(&i, &o, &text, NULL, &err)) fail_msg("%s on %s %s: %s", spec, target, config, err.text);
  int lines = check_text(text.data);
  buf_free(&text);
  return lines;
}

static void every_instruction_decodes_to_what_was_meant(void **state) {
  (void)state;
  static const char *const specs[] = {
      "d32:f32",  "d64:f32:causal",   "d128:f32",        "d40:f32:causal",
      "d64:bf16", "d128:bf16:causal", "d72:bf16:causal", "d32:bf16:q=bf16,kv=bf16,o=f32"};
  static const char *const configs[] = {"",
                                        "stages=1",
                                        "block_m=16,tile_n=8",
                                        "block_m=32,block_n=64",
                                        "unroll=8,stages=1",
                                        "exp=poly5",
                                        "exp=poly3,stages=1",
                                        "pack_k=0",
                                        "prefetch=8",
                                        "tile_n=2,block_m=48",
                                        "block_m=8,tile_n=1,stages=2",
                                        "block_m=16,tile_n=4,prefetch=4",
                                        "block_m=16,tile_n=8,pack_k=0,prefetch=4",
                                        "algo=standard",
                                        "algo=fa1"};
  static const char *const targets[] = {"avx512bf16", "avx2", "avx512"};
  for (size_t t = 0; t < sizeof targets / sizeof targets[0]; t++) {
    int lines = 0;
    for (size_t s = 0; s < sizeof specs / sizeof specs[0]; s++)
      for (size_t c = 0; c < sizeof configs / sizeof configs[0]; c++)
        lines += check_instance(targets[t], specs[s], configs[c]);
    assert_true(lines > 20000);
    print_message("%s: %d instructions\n", targets[t], lines);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_instruction_decodes_to_what_was_meant)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
static void no_encoder(void **state) {
  (void)state;
  print_message("built with TCC=0: no encoder to check\n");
  skip();
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(no_encoder)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
