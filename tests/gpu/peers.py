"""bf16 forward kernels of others on one H200 (132 SMs, 700 W), measured on 2026-11-20: TFLOP/s = 4 batch heads N^2 d / time, halved when
causal; 16384 tokens, heads x head_dim = 2048, randn inputs, (batch, seqlen, heads, head_dim), bursts behind a spin kernel, median.
FlashAttention-3 at 0251105a, cuDNN 9.19, FlashAttention-2 of PyTorch 2.11, Triton 3.6."""

LENGTHS = [512, 1024, 2048, 4096, 8192, 16384]

# (head_dim, causal): cuDNN, the best of all four
PEERS = {
    (64, 0): ([387, 436, 457, 472, 474, 481], [387, 436, 503, 532, 581, 576]),
    (64, 1): ([260, 340, 395, 432, 455, 469], [260, 340, 430, 491, 550, 575]),
    (128, 0): ([542, 614, 643, 656, 672, 677], [542, 643, 687, 711, 723, 743]),
    (128, 1): ([349, 455, 530, 566, 600, 621], [349, 504, 621, 692, 734, 762]),
    (256, 0): ([541, 641, 673, 687, 705, 719], [547, 686, 753, 774, 800, 813]),
    (256, 1): ([355, 466, 545, 568, 604, 635], [355, 508, 639, 727, 784, 819]),
}
