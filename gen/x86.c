#include "x86.h"

#include <string.h>

#if STROBE_TCC
#include <Zydis/Zydis.h>
#define ID(x) ZYDIS_MNEMONIC_##x
#else
#define ID(x) 0
#endif

enum { FULL = -1, HALF = -2 }; // memory operands: as long as the largest vector register beside them, or half of it

static const struct mnemonic {
  const char *name;
  int id;
  bool vector; // EVEX: Zydis wants the mask as an operand, k0 if there is none
  int memory;
} table[] = {
    {"vmovups", ID(VMOVUPS), true, FULL},
    {"vmovdqu16", ID(VMOVDQU16), true, FULL},
    {"vaddps", ID(VADDPS), true, FULL},
    {"vsubps", ID(VSUBPS), true, FULL},
    {"vmulps", ID(VMULPS), true, FULL},
    {"vdivps", ID(VDIVPS), true, FULL},
    {"vmaxps", ID(VMAXPS), true, FULL},
    {"vminps", ID(VMINPS), true, FULL},
    {"vfmadd231ps", ID(VFMADD231PS), true, FULL},
    {"vfmadd213ps", ID(VFMADD213PS), true, FULL},
    {"vfmsub213ps", ID(VFMSUB213PS), true, FULL},
    {"vdpbf16ps", ID(VDPBF16PS), true, FULL},
    {"vandps", ID(VANDPS), true, FULL},
    {"vorps", ID(VORPS), true, FULL},
    {"vxorps", ID(VXORPS), true, FULL},
    {"vpandd", ID(VPANDD), true, FULL},
    {"vpord", ID(VPORD), true, FULL},
    {"vpternlogd", ID(VPTERNLOGD), true, FULL},
    {"vpaddd", ID(VPADDD), true, FULL},
    {"vpsrld", ID(VPSRLD), true, FULL},
    {"vpslld", ID(VPSLLD), true, FULL},
    {"vpcmpgtd", ID(VPCMPGTD), true, FULL},
    {"vpcmpeqd", ID(VPCMPEQD), true, FULL},
    {"vcvtdq2ps", ID(VCVTDQ2PS), true, FULL},
    {"vroundps", ID(VROUNDPS), true, FULL},
    {"vpxord", ID(VPXORD), true, FULL},
    {"vrndscaleps", ID(VRNDSCALEPS), true, FULL},
    {"vreduceps", ID(VREDUCEPS), true, FULL},
    {"vscalefps", ID(VSCALEFPS), true, FULL},
    {"vgetexpps", ID(VGETEXPPS), true, FULL},
    {"vgetmantps", ID(VGETMANTPS), true, FULL},
    {"vpermps", ID(VPERMPS), true, FULL},
    {"vpermw", ID(VPERMW), true, FULL},
    {"vpermq", ID(VPERMQ), true, FULL},
    {"vpermi2w", ID(VPERMI2W), true, FULL},
    {"vperm2f128", ID(VPERM2F128), true, FULL},
    {"vunpcklps", ID(VUNPCKLPS), true, FULL},
    {"vunpckhps", ID(VUNPCKHPS), true, FULL},
    {"vunpcklpd", ID(VUNPCKLPD), true, FULL},
    {"vunpckhpd", ID(VUNPCKHPD), true, FULL},
    {"vpackusdw", ID(VPACKUSDW), true, FULL},
    {"vmaskmovps", ID(VMASKMOVPS), true, FULL},
    {"vblendvps", ID(VPERM2F128), true, FULL}, // see x86_encode
    {"vcvtne2ps2bf16", ID(VCVTNE2PS2BF16), true, FULL},
    {"vcvtneps2bf16", ID(VCVTNEPS2BF16), true, FULL},
    {"vpcmpd", ID(VPCMPD), true, FULL},
    {"vcmpps", ID(VCMPPS), true, FULL},
    {"vblendmps", ID(VBLENDMPS), true, FULL},
    {"vshuff32x4", ID(VSHUFF32X4), true, FULL},
    {"vshufps", ID(VSHUFPS), true, FULL},
    {"vpunpcklwd", ID(VPUNPCKLWD), true, FULL},
    {"vpunpckhwd", ID(VPUNPCKHWD), true, FULL},
    {"vpmovzxwd", ID(VPMOVZXWD), true, HALF},
    {"vpmovdw", ID(VPMOVDW), true, HALF},
    {"vcvtph2ps", ID(VCVTPH2PS), true, HALF},
    {"vcvtps2ph", ID(VCVTPS2PH), true, HALF},
    {"vbroadcastss", ID(VBROADCASTSS), true, 4},
    {"vpbroadcastd", ID(VPBROADCASTD), true, 4},
    {"vmovd", ID(VMOVD), true, 4},
    {"vpinsrw", ID(VPINSRW), true, 2},
    {"vpextrw", ID(VPEXTRW), true, 2},
    {"ldtilecfg", ID(LDTILECFG), false, 64},
    {"tilerelease", ID(TILERELEASE), false, 0},
    {"tilezero", ID(TILEZERO), false, 0},
    {"tileloadd", ID(TILELOADD), false, 0},
    {"tilestored", ID(TILESTORED), false, 0},
    {"tdpbf16ps", ID(TDPBF16PS), false, 0},
    {"prefetcht0", ID(PREFETCHT0), false, 1},
    {"prefetcht1", ID(PREFETCHT1), false, 1},
    {"mov", ID(MOV), false, 8},
    {"imul", ID(IMUL), false, 8},
    {"add", ID(ADD), false, 8},
    {"cmp", ID(CMP), false, 8},
    {"jle", ID(JLE), false, 0},
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

static int vector_bytes(enum x86_kind kind) {
  return kind == X86_ZMM ? 64 : kind == X86_YMM ? 32 : kind == X86_XMM ? 16 : 0;
}

int x86_memory_size(const struct x86_insn *insn) {
  int memory = table[insn->mnemonic].memory, largest = 0;
  if (memory >= 0) return memory;
  for (int i = 0; i < insn->n; i++)
    if (vector_bytes(insn->op[i].kind) > largest) largest = vector_bytes(insn->op[i].kind);
  return largest / -memory;
}

#if STROBE_TCC
bool x86_available(void) { return true; }

static ZydisRegister vector(enum x86_kind kind, int reg) {
  return (ZydisRegister)((kind == X86_ZMM   ? ZYDIS_REGISTER_ZMM0
                          : kind == X86_YMM ? ZYDIS_REGISTER_YMM0
                                            : ZYDIS_REGISTER_XMM0) +
                         reg);
}

static ZydisRegister gpr(enum x86_kind kind, int reg) {
  return (ZydisRegister)((kind == X86_R64 ? ZYDIS_REGISTER_RAX : ZYDIS_REGISTER_EAX) + reg);
}

static void operand(ZydisEncoderOperand *z, const struct x86_operand *o) {
  switch (o->kind) {
  case X86_ZMM:
  case X86_YMM:
  case X86_XMM:
    z->type = ZYDIS_OPERAND_TYPE_REGISTER;
    z->reg.value = vector(o->kind, o->reg);
    break;
  case X86_K:
    z->type = ZYDIS_OPERAND_TYPE_REGISTER;
    z->reg.value = (ZydisRegister)(ZYDIS_REGISTER_K0 + o->reg);
    break;
  case X86_TMM:
    z->type = ZYDIS_OPERAND_TYPE_REGISTER;
    z->reg.value = (ZydisRegister)(ZYDIS_REGISTER_TMM0 + o->reg);
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
  // Zydis 4.0 encodes no register in an immediate's place. vblendvps has the form of vperm2f128, but for its opcode.
  const bool blend = insn->n == 4 && insn->op[3].kind == X86_YMM;
  int n = 0;
  for (int i = 0; i < insn->n; i++) {
    struct x86_operand o = insn->op[i];
    if (blend && i == 3) o = (struct x86_operand){.kind = X86_IMM, .value = o.reg << 4};
    operand(&r.operands[n++], &o);
    if (insn->op[i].bcast) r.evex.broadcast = ZYDIS_BROADCAST_MODE_1_TO_16;
    if (i == 0 && table[insn->mnemonic].vector && !insn->vex) {
      r.operands[n].type = ZYDIS_OPERAND_TYPE_REGISTER;
      r.operands[n++].reg.value = (ZydisRegister)(ZYDIS_REGISTER_K0 + insn->mask);
    }
  }
  if (insn->vex && table[insn->mnemonic].vector) r.allowed_encodings = ZYDIS_ENCODABLE_ENCODING_VEX;
  r.operand_count = (ZyanU8)n;
  r.evex.zeroing_mask = insn->zeroing;
  ZyanUSize len = 15;
  if (!ZYAN_SUCCESS(ZydisEncoderEncodeInstruction(&r, out, &len))) return 0;
  if (blend) out[3] = 0x4a; // after a VEX prefix of three bytes
  return (int)len;
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
    case X86_XMM: buf_printf(out, "xmm%d", o->reg); break;
    case X86_K: buf_printf(out, "k%d", o->reg); break;
    case X86_TMM: buf_printf(out, "tmm%d", o->reg); break;
    case X86_R64: buf_str(out, gpr64[o->reg]); break;
    case X86_R32: buf_str(out, gpr32[o->reg]); break;
    case X86_MEM: print_memory(o, out); break;
    default: buf_printf(out, "%lld", (long long)o->value);
    }
    if (i == 0 && insn->mask) buf_printf(out, "{k%d}%s", insn->mask, insn->zeroing ? "{z}" : "");
  }
}
