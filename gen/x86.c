#include "x86.h"

#include <string.h>

#if STROBE_TCC
#include <Zydis/Zydis.h>
#define ID(x) ZYDIS_MNEMONIC_##x
#else
#define ID(x) 0
#endif

static const struct mnemonic {
  const char *name;
  int id;
  bool evex; // Zydis wants the mask as an operand of these, k0 if there is none
  int memory;
} table[] = {
    {"vmovups", ID(VMOVUPS), true, 64},
    {"vmovdqu16", ID(VMOVDQU16), true, 32},
    {"vbroadcastss", ID(VBROADCASTSS), true, 4},
    {"vpbroadcastd", ID(VPBROADCASTD), true, 4},
    {"vaddps", ID(VADDPS), true, 64},
    {"vsubps", ID(VSUBPS), true, 64},
    {"vmulps", ID(VMULPS), true, 64},
    {"vdivps", ID(VDIVPS), true, 64},
    {"vmaxps", ID(VMAXPS), true, 64},
    {"vfmadd231ps", ID(VFMADD231PS), true, 64},
    {"vfmadd213ps", ID(VFMADD213PS), true, 64},
    {"vdpbf16ps", ID(VDPBF16PS), true, 64},
    {"vpandd", ID(VPANDD), true, 64},
    {"vpord", ID(VPORD), true, 64},
    {"vpaddd", ID(VPADDD), true, 64},
    {"vpsrld", ID(VPSRLD), true, 64},
    {"vpslld", ID(VPSLLD), true, 64},
    {"vpmovzxwd", ID(VPMOVZXWD), true, 32},
    {"vpmovdw", ID(VPMOVDW), true, 32},
    {"vcvtph2ps", ID(VCVTPH2PS), true, 32},
    {"vcvtps2ph", ID(VCVTPS2PH), true, 32},
    {"vpxord", ID(VPXORD), true, 64},
    {"vrndscaleps", ID(VRNDSCALEPS), true, 64},
    {"vreduceps", ID(VREDUCEPS), true, 64},
    {"vscalefps", ID(VSCALEFPS), true, 64},
    {"vgetexpps", ID(VGETEXPPS), true, 64},
    {"vgetmantps", ID(VGETMANTPS), true, 64},
    {"vpermps", ID(VPERMPS), true, 64},
    {"vpermw", ID(VPERMW), true, 64},
    {"vpermi2ps", ID(VPERMI2PS), true, 64},
    {"vpermi2w", ID(VPERMI2W), true, 64},
    {"vcvtne2ps2bf16", ID(VCVTNE2PS2BF16), true, 64},
    {"vcvtneps2bf16", ID(VCVTNEPS2BF16), true, 64},
    {"vpcmpd", ID(VPCMPD), true, 64},
    {"vcmpps", ID(VCMPPS), true, 64},
    {"vblendmps", ID(VBLENDMPS), true, 64},
    {"vshuff32x4", ID(VSHUFF32X4), true, 64},
    {"vshufps", ID(VSHUFPS), true, 64},
    {"vpunpcklwd", ID(VPUNPCKLWD), true, 64},
    {"vpunpckhwd", ID(VPUNPCKHWD), true, 64},
    {"prefetcht0", ID(PREFETCHT0), false, 1},
    {"prefetcht1", ID(PREFETCHT1), false, 1},
    {"mov", ID(MOV), false, 8},
    {"imul", ID(IMUL), false, 8},
    {"add", ID(ADD), false, 8},
};

static const char *const gpr64[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                      "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const gpr32[16] = {"eax", "ecx", "edx",  "ebx",  "esp",  "ebp",  "esi",  "edi",
                                      "r8d", "r9d", "r10d", "r11d", "r12d", "r13d", "r14d", "r15d"};

int x86_mnemonic(const char *name, int len) {
  for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
    if (!strncmp(table[i].name, name, (size_t)len) && !table[i].name[len]) return (int)i;
  return -1;
}

int x86_memory_size(int mnemonic) { return table[mnemonic].memory; }

#if STROBE_TCC
bool x86_available(void) { return true; }

static ZydisRegister vector(enum x86_kind kind, int reg) {
  return (ZydisRegister)((kind == X86_ZMM ? ZYDIS_REGISTER_ZMM0 : ZYDIS_REGISTER_YMM0) + reg);
}

static ZydisRegister gpr(enum x86_kind kind, int reg) {
  return (ZydisRegister)((kind == X86_R64 ? ZYDIS_REGISTER_RAX : ZYDIS_REGISTER_EAX) + reg);
}

static void operand(ZydisEncoderOperand *z, const struct x86_operand *o) {
  switch (o->kind) {
  case X86_ZMM:
  case X86_YMM:
    z->type = ZYDIS_OPERAND_TYPE_REGISTER;
    z->reg.value = vector(o->kind, o->reg);
    break;
  case X86_K:
    z->type = ZYDIS_OPERAND_TYPE_REGISTER;
    z->reg.value = (ZydisRegister)(ZYDIS_REGISTER_K0 + o->reg);
    break;
  case X86_R64:
  case X86_R32:
    z->type = ZYDIS_OPERAND_TYPE_REGISTER;
    z->reg.value = gpr(o->kind, o->reg);
    break;
  case X86_MEM:
    z->type = ZYDIS_OPERAND_TYPE_MEMORY;
    z->mem.base = gpr(X86_R64, o->base);
    if (o->index >= 0) {
      z->mem.index = gpr(X86_R64, o->index);
      z->mem.scale = (ZyanU8)o->scale;
    }
    z->mem.displacement = o->value;
    z->mem.size = (ZyanU16)o->size;
    break;
  default: z->type = ZYDIS_OPERAND_TYPE_IMMEDIATE; z->imm.s = o->value;
  }
}

int x86_encode(const struct x86_insn *insn, uint8_t out[15]) {
  ZydisEncoderRequest r;
  memset(&r, 0, sizeof r);
  r.machine_mode = ZYDIS_MACHINE_MODE_LONG_64;
  r.mnemonic = (ZydisMnemonic)table[insn->mnemonic].id;
  int n = 0;
  for (int i = 0; i < insn->n; i++) {
    operand(&r.operands[n++], &insn->op[i]);
    if (insn->op[i].bcast) r.evex.broadcast = ZYDIS_BROADCAST_MODE_1_TO_16;
    if (i == 0 && table[insn->mnemonic].evex) {
      r.operands[n].type = ZYDIS_OPERAND_TYPE_REGISTER;
      r.operands[n++].reg.value = (ZydisRegister)(ZYDIS_REGISTER_K0 + insn->mask);
    }
  }
  r.operand_count = (ZyanU8)n;
  r.evex.zeroing_mask = insn->zeroing;
  ZyanUSize len = 15;
  return ZYAN_SUCCESS(ZydisEncoderEncodeInstruction(&r, out, &len)) ? (int)len : 0;
}
#else
bool x86_available(void) { return false; }

int x86_encode(const struct x86_insn *insn, uint8_t out[15]) {
  (void)insn;
  (void)out;
  return 0;
}
#endif

static void print_memory(const struct x86_operand *o, struct buf *out) {
  buf_printf(out, "[%s", gpr64[o->base]);
  if (o->index >= 0) buf_printf(out, " + %d*%s", o->scale, gpr64[o->index]);
  if (o->value) buf_printf(out, " %c %lld", o->value < 0 ? '-' : '+', (long long)(o->value < 0 ? -o->value : o->value));
  buf_str(out, o->bcast ? "]{1to16}" : "]");
}

void x86_print(const struct x86_insn *insn, struct buf *out) {
  buf_str(out, table[insn->mnemonic].name);
  for (int i = 0; i < insn->n; i++) {
    const struct x86_operand *o = &insn->op[i];
    buf_str(out, i ? ", " : " ");
    switch (o->kind) {
    case X86_ZMM: buf_printf(out, "zmm%d", o->reg); break;
    case X86_YMM: buf_printf(out, "ymm%d", o->reg); break;
    case X86_K: buf_printf(out, "k%d", o->reg); break;
    case X86_R64: buf_str(out, gpr64[o->reg]); break;
    case X86_R32: buf_str(out, gpr32[o->reg]); break;
    case X86_MEM: print_memory(o, out); break;
    default: buf_printf(out, "%lld", (long long)o->value);
    }
    if (i == 0 && insn->mask) buf_printf(out, "{k%d}%s", insn->mask, insn->zeroing ? "{z}" : "");
  }
}
