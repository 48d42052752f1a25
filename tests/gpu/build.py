"""Emits the kernels that run.py checks and times, and compiles them: build.py STROBE FOLDER. Wants nvcc; no GPU."""
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

# spec, config, lengths at which it is the default ([0, 0]: checked, not timed). Each default also with softmax=classical, which
# wide scores are held against.
KERNELS = [
    ("d64:{}:q2048k2048", "", [512, 4096]), ("d64:{}:q8192k8192", "", [8192, 16384]), ("d64:{}:causal", "", [512, 16384]),
    ("d128:{}:q1024k1024", "", [512, 1024]), ("d128:{}:q4096k4096", "", [2048, 16384]), ("d128:{}:causal:q1024k1024", "", [512, 1024]),
    ("d128:{}:causal:q4096k4096", "", [2048, 16384]), ("d256:{}:q2048k2048", "", [512, 2048]), ("d256:{}:q4096k4096", "", [4096, 16384]),
    ("d256:{}:causal:q2048k2048", "", [512, 2048]), ("d256:{}:causal:q4096k4096", "", [4096, 16384]),
]
VARIANTS = [
    ("d128:bf16", "overlap=0"), ("d128:bf16:causal", "overlap=0,pingpong=1,block_n=64"), ("d192:bf16", ""), ("d192:bf16:causal", ""),
    ("d128:bf16", "block_m=64,block_n=128,stages=2"), ("d128:bf16:causal", "block_m=192,block_n=64,q_regs=0,q_stages=1,o_tma=0,flat=0"),
    ("d128:bf16", "block_n=176,stages=2,flat=0,q_regs=0,pingpong=1,softmax=classical"), ("d128:bf16:causal", "schedule=grid,flat=0"),
    ("d128:bf16:causal", "schedule=persistent"), ("d64:bf16:causal", "softmax=conditional,pingpong=1,l2_section=64"),
    ("d128:bf16:causal", "heavy_keys=1"), ("d64:bf16", "heavy_keys=1"), ("d256:bf16", "softmax=fast,heavy_keys=0"),
    ("d256:bf16:causal", "o_tma=0"), ("d192:f16:causal", "o_tma=0"), ("d256:bf16", "flat=1"), ("d128:f16:causal", "flat=0,o_tma=2,stages=2"),
]


def emit(strobe, folder, spec, config):
    out = subprocess.run([strobe, "emit", spec, "--target", "sm90a", "--json", "-o", folder] + (["--set", config] if config else []),
                         check=True, capture_output=True, text=True).stdout
    return json.loads(out)


FLAGS = ["-gencode", "arch=compute_90a,code=sm_90a"]


def build(strobe, folder, spec, config, use):
    """Emits and compiles one kernel: its object file and its entry in the manifest; None if it fails."""
    e = emit(strobe, os.path.join(folder, "emitted"), spec, config)
    target = e["source"][:-3] + ".o"
    log = subprocess.run(["nvcc", "-std=c++17", "-O3", *FLAGS, "-Xptxas", "-v", "-Xcompiler", "-fPIC,-Wall,-Wextra", "-c", e["source"], "-o", target],
                         capture_output=True, text=True)
    text = log.stderr + log.stdout
    bad = log.returncode or "C75" in text or "warning" in text
    spills = next((l.strip() for l in text.splitlines() if "spill" in l), "")
    print(("FAIL " if bad else "ok   ") + e["symbol"] + ("" if " 0 bytes spill stores, 0" in spills else "  " + spills)
          + (("\n" + text) if bad else ""), flush=True)
    fields = spec.split(":")
    return None if bad else (target, {
        "symbol": e["symbol"], "label": e["name"][9:-6] + (" " + config if config else ""), "head_dim": int(fields[0][1:]),
        "dtype": fields[1], "causal": int("causal" in fields), "use": use, "softmax": "classical" if "classical" in config else ""})


SET = """d64:bf16:causal target=sm90a,c99
d128:bf16 target=sm90a,c99
d128:f16 target=sm90a,c99
d256:bf16:causal target=sm90a,c99
"""


def build_owned(strobe, folder):
    """The set that owned.cu calls, as another project would build it: folder/owned, which needs the driver only."""
    here, emitted = os.path.dirname(os.path.abspath(__file__)), os.path.join(folder, "set")
    os.makedirs(emitted, exist_ok=True)
    listed = os.path.join(folder, "kernels.txt")
    with open(listed, "w") as f:
        f.write(SET)
    subprocess.run([strobe, "emit", "--set-file", listed, "--name", "own", "-o", emitted], check=True, stdout=subprocess.DEVNULL)
    sources = sorted(os.path.join(emitted, f) for f in os.listdir(emitted) if f.endswith((".c", ".cu")))
    subprocess.run(["nvcc", "-std=c++17", "-O3", *FLAGS, "-DOWN_WITH_CUDA", "-cudart", "static", "-I", emitted, "-o",
                    os.path.join(folder, "owned"), *sources, os.path.join(here, "owned.cu")], check=True)
    print("ok   owned: " + ", ".join(SET.splitlines()), flush=True)


def main():
    strobe, folder = sys.argv[1:3]
    jobs = [(s.format(t), c, u) for s, c, u in KERNELS for t in ("bf16", "f16")] + [(s, c, [0, 0]) for s, c in VARIANTS]
    jobs += [(s.format("bf16"), "softmax=classical", u) for s, _, u in KERNELS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        built = [x for x in pool.map(lambda j: build(strobe, folder, *j), jobs) if x]
    objects = dict.fromkeys(target for target, _ in built)  # two lengths may share a kernel
    subprocess.run(["nvcc", "-shared", *FLAGS, "-o", os.path.join(folder, "kernels.so"), *objects], check=True)
    with open(os.path.join(folder, "manifest.json"), "w") as f:
        json.dump([entry for _, entry in built], f, indent=1)
    build_owned(strobe, folder)


main()
