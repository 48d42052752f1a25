// Attention in a program that links Strobe: plan, execute. cc embed.c $(pkg-config --cflags --libs strobe)
#include <strobe.h>

#include <stdio.h>

enum { HEADS = 8, HEADS_KV = 2, N = 256, D = 64 };
static float q[N][HEADS][D], k[N][HEADS_KV][D], v[N][HEADS_KV][D], o[N][HEADS][D];

int main(void) {
  strobe_context *ctx;
  strobe_plan *plan;
  for (int i = 0; i < N; i++)
    for (int x = 0; x < D; x++) {
      for (int h = 0; h < HEADS; h++) q[i][h][x] = (float)((i * 7 + h + x) % 13) / 13;
      for (int h = 0; h < HEADS_KV; h++) k[i][h][x] = (float)((i + x) % 11) / 11, v[i][h][x] = (float)i;
    }
  if (strobe_context_create(NULL, &ctx) || strobe_plan_create(ctx, "d64:f32:causal:h8/2q256k256", NULL, &plan))
    return puts(strobe_error()), 1;
  struct strobe_io io = {.size = sizeof io, .q = {q}, .k = {k}, .v = {v}, .o = {o}}; // strides 0: packed (b, n, h, d)
  struct strobe_plan_info info = {.size = sizeof info};
  if (strobe_execute(plan, &io) || strobe_plan_describe(plan, &info)) return puts(strobe_error()), 1;
  printf("%s\nfirst row of V averaged over the first, 16 and all keys: %g %g %g\n", info.instance, o[0][0][0],
         o[15][0][0], o[N - 1][0][0]);
  strobe_plan_destroy(plan);
  strobe_context_destroy(ctx);
  return o[0][0][0] != 0 || !(o[N - 1][0][0] > 0 && o[N - 1][0][0] < N); // query 0 sees key 0 only
}
