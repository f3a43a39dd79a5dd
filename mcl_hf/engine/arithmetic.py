"""How this process computes: denormal numbers, TensorFloat-32, choice of convolution algorithms.

Where it sits: `pretrain.py` sets it once, before the model is built. These switches belong to the process, not to a
model, and stay as they were set when the run ends.
"""

import torch


def set_arithmetic(device: torch.device, tf32: bool, fixed_shapes: bool) -> None:
    """Set the process up for training on `device`.

    Args:
        device: On the CPU, denormal numbers become zero: they slow a step down several times.
        tf32: On CUDA, whether products and convolutions in fp32 may round their inputs to TensorFloat-32 (8 bits of
            exponent, 10 of mantissa), several times as fast from Ampere on. Without effect on the CPU and under bf16
            or fp16.
        fixed_shapes: On CUDA, whether cuDNN tries its algorithms once for each shape. That pays where shapes are few,
            as in pre-training; a detector's images come in hundreds of sizes, and each would be tried anew.
    """
    torch.set_flush_denormal(True)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = fixed_shapes
