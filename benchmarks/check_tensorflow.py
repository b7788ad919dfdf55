"""MUSIQ in TensorFlow against the kit: a module with gradients, and the same saved and loaded as a SavedModel.

TensorFlow is too large to be installed for every test run, so this is a program to run by hand, in an environment
that has it (pip install tensorflow-cpu; pip install -e .):

    python benchmarks/check_tensorflow.py
"""

from __future__ import annotations

import sys
import tempfile

import numpy as np
import tensorflow as tf

from musiq_ref.image.hash import hash_index
from musiq_ref.image.resize import gaussian_matrix
from musiq_ref.image.tokenize import scales_of
from musiq_ref.model.parameters import flatten
from musiq_ref.verify import build_fixture
from musiq_ref.verify.adapters import compare_port
from musiq_ref.verify.framework_adapters import keras_port


class Musiq(tf.Module):
    """One image (1, H, W, 3) in 0 … 1 to {stage: tensor}, under the authors' conventions."""

    def __init__(self, config, params):
        super().__init__()
        self.config = config
        self.variables_by_path = {path: tf.Variable(np.float32(array), name=path) for path, array in flatten(params)}

    def __call__(self, image):
        stages = {}

        def see(name, x):
            stages[name] = tf.identity(x)
            return x

        patches, place, scale, mask = self.tokens(image[0])
        see("patches", patches[None])
        stages |= {"hash_index": tf.constant(place), "scale_index": tf.constant(scale), "mask": tf.constant(mask)}
        features = tf.reshape(self.stem(patches, see), (len(place), -1))
        x = see("patch_embedding", self.linear(features, "patch_embedding")[None])
        x += tf.gather(self["spatial_embedding/table"], place)
        x = see("scale_embedding", x + tf.gather(self["scale_embedding/table"], scale))
        z = see("encoder/input", tf.concat([self["class_token"][None, None], x], 1))
        valid = np.concatenate([[True], mask.astype(bool)])
        for i in range(self.config.layers):
            z = self.block(z, f"encoder/block_{i:02d}", valid[:, None] & valid, see)
        y = see("encoder/norm", self.layer_norm(z, "encoder/norm"))[:, 0]
        p = see("probabilities", tf.nn.softmax(see("head/logits", self.linear(y, "head"))))
        see("score", tf.reduce_sum(p * np.arange(1, self.config.outputs + 1, dtype=np.float32), -1))
        return stages

    def __getitem__(self, path):
        return self.variables_by_path[path]

    def linear(self, x, path):
        return tf.matmul(x, self[f"{path}/kernel"]) + self[f"{path}/bias"]

    def tokens(self, image):
        P, parts = self.config.patch_size, []
        for s in scales_of(*image.shape[:2], self.config):
            x = 2 * image - 1
            if s.longer_side:
                sizes = zip(image.shape[:2], (s.height, s.width), strict=True)
                rows, columns = (tf.constant(gaussian_matrix(a, b, "float32").toarray()) for a, b in sizes)
                x = tf.einsum("ih,hwc,jw->ijc", rows, x, columns)
            pads = [s.rows * P - s.height, s.columns * P - s.width]
            x = tf.pad(x, [[n // 2, n - n // 2] for n in pads] + [[0, 0]])
            x = tf.transpose(tf.reshape(x, (s.rows, P, s.columns, P, 3)), (0, 2, 1, 3, 4))
            x = tf.reshape(x, (-1, P, P, 3))[: s.length]
            place = hash_index(s.rows, s.columns, self.config.grid_size)[: s.length]
            ones, missing = np.ones(len(place), int), s.length - len(place)
            vectors = (np.pad(v, (0, missing)) for v in (place, ones * s.scale_index, ones))
            parts.append((tf.pad(x, [[0, missing], [0, 0], [0, 0], [0, 0]]), *vectors))
        patches, *vectors = zip(*parts, strict=True)
        return tf.concat(patches, 0), *(np.concatenate(v) for v in vectors)

    def stem(self, x, see):
        def conv(name, x, stride=1):
            kernel = self[f"stem/conv{name}/kernel"]
            mean = tf.reduce_mean(kernel, (0, 1, 2))
            std = tf.sqrt(tf.reduce_mean((kernel - mean) ** 2, (0, 1, 2)))
            return see(f"stem/conv{name}", tf.nn.conv2d(x, (kernel - mean) / (std + 1e-5), stride, "SAME"))

        def gn(name, x, eps=1e-4):
            n, h, w, c = x.shape
            grouped = tf.reshape(x, (n, h * w, 32, c // 32))
            mean, variance = tf.nn.moments(grouped, (1, 3), keepdims=True)
            y = tf.reshape((grouped - mean) * tf.math.rsqrt(variance + eps), x.shape)
            return see(f"stem/gn{name}", y * self[f"stem/gn{name}/scale"] + self[f"stem/gn{name}/bias"])

        x = tf.nn.relu(gn("_root", conv("_root", x, 2), 1e-6))
        x = see("stem/pool", tf.nn.max_pool2d(x, 3, 2, "SAME"))
        y = tf.nn.relu(gn("1", conv("1", x)))
        y = tf.nn.relu(gn("2", conv("2", y)))
        return see("stem/output", tf.nn.relu(gn("3", conv("3", y)) + gn("_proj", conv("_proj", x))))

    def layer_norm(self, x, path):
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-6) * self[f"{path}/scale"] + self[f"{path}/bias"]

    def block(self, z, path, allowed, see):
        def named(name, x):
            return see(f"{path}/{name}", x)

        x = named("norm1", self.layer_norm(z, f"{path}/norm1"))
        q, k, v = (
            named(
                f"attention/{n}",
                tf.einsum("bnd,dhk->bhnk", x, self[f"{path}/attention/{n}/kernel"])
                + self[f"{path}/attention/{n}/bias"][:, None],
            )
            for n in ("query", "key", "value")
        )
        logits = tf.einsum("bhqk,bhsk->bhqs", q, k) / q.shape[-1] ** 0.5
        weights = named("attention/weights", tf.nn.softmax(tf.where(allowed, logits, -1e10)))
        out = tf.einsum("bhqs,bhsk,hkd->bqd", weights, v, self[f"{path}/attention/out/kernel"])
        z = named("residual1", z + named("attention/out", out + self[f"{path}/attention/out/bias"]))
        x = named("mlp/fc1", self.linear(named("norm2", self.layer_norm(z, f"{path}/norm2")), f"{path}/mlp/fc1"))
        x = named("mlp/gelu", tf.nn.gelu(x, approximate=True))
        return named("output", z + named("mlp/fc2", self.linear(x, f"{path}/mlp/fc2")))


def main() -> int:
    fixture = build_fixture()
    module = Musiq(fixture.config, fixture.params)
    names = {v.name: path for path, v in module.variables_by_path.items()}
    eager = compare_port(fixture, keras_port(module, lambda m, image: m(image), variables=names))
    print("a tf.Module, with gradients by GradientTape\n", eager)
    gradients = sum(rung.name.startswith("dparams/") and rung.fine for rung in eager.rungs)
    signature = tf.TensorSpec((1, *fixture.image.shape), tf.float32)
    with tempfile.TemporaryDirectory() as folder:
        call = tf.function(module.__call__, input_signature=[signature])
        tf.saved_model.save(module, folder, signatures=call)
        loaded = tf.saved_model.load(folder)
        serve = loaded.signatures["serving_default"]
        saved = compare_port(fixture, keras_port(loaded, lambda m, image: serve(image)))
    print("\nthe same as a SavedModel\n", saved)
    passed = eager.passed and saved.passed and gradients == len(names)
    print(f"\ngradients of {gradients} of {len(names)} parameters agree; {'passed' if passed else 'FAILED'}")
    return not passed


if __name__ == "__main__":
    sys.exit(main())
