// The instances that tests of CUDA kernels go through, and how they are resolved. After cmocka.h.
#ifndef STROBE_TESTS_CUDA_INSTANCES_H
#define STROBE_TESTS_CUDA_INSTANCES_H

static const char *const defaults[] = {
    "d64:bf16:q2048k2048", "d64:bf16:q8192k8192",         "d64:bf16:causal", "d128:bf16:q1024k1024",
    "d128:bf16",           "d128:bf16:causal:q1024k1024", "d128:f16:causal", "d192:bf16",
    "d256:bf16",           "d256:bf16:causal:q1024k1024", "d256:f16:causal"};
enum { N_DEFAULTS = sizeof defaults / sizeof *defaults };

static int resolve(const char *problem, const char *set, struct instance *i, struct error *err) {
  struct problem p;
  assert_int_equal(problem_parse(problem, &p, err), 0);
  *i = (struct instance){.spec = p.spec, .target = target_find("sm90a")};
  config_clear(&i->config);
  int status = set ? config_parse(set, &i->config, err) : 0;
  return status ? status : config_resolve(&p.spec, i->target, &p, &i->config, err);
}

#endif
