"""A bundle as one ONNX file for single samples, in which the exits are conditions (`If`)."""

import os
from pathlib import Path

import numpy as np

from offramp._io.writing import whole_file
from offramp.datasets.preparing import TextPreparation
from offramp.runtime.bundle import load


def write_single_file(bundle: str | os.PathLike, path: str | os.PathLike) -> None:
    """Write a bundle as one ONNX file, which decides by itself. Any program with onnxruntime can run it.

    The input of the file is `input`: one prepared sample, (1, C, H, W) or (1, T). Its outputs are `logits` (1, C) of
    the exit at which the sample leaves, and `exit`, counted from 0. It needs the package onnx.

    Parameters
    ----------
    bundle : path
        A bundle of one model with the policy `confidence` (max softmax, without temperatures).
    path : path
        File to write, .onnx.

    Raises
    ------
    ValueError
        If the bundle is not valid, has another policy or several models, or rejects answers.
    """
    import onnx
    from onnx import TensorProto, compose, helper, numpy_helper

    model = load(bundle)
    policy, manifest = model.policy, model.manifest
    if (policy.name, getattr(policy, "score", None), policy.learns) != ("confidence", "max_softmax", False):
        raise ValueError(f"{bundle}: policy {manifest.policy!r}; expected confidence with max_softmax, no temperatures")
    for name in ("reject_below", "abstain_below"):
        if (below := getattr(manifest, name)) is not None:
            raise ValueError(f"{bundle}: {name} is {below}; expected a bundle without rejection")
    if len(manifest.models) > 1:
        raise ValueError(f"{bundle}: {len(manifest.models)} models; expected one")
    stages, last = manifest.models[0].stages, model.n_exits - 1
    thresholds = np.broadcast_to(model.threshold, last)  # (L − 1,)
    files = [onnx.load(Path(bundle, stage.file)) for stage in stages]
    constants = []  # initializers of all stages, which inner graphs read from the outermost

    def outputs(prefix: str) -> list:
        exit_ = helper.make_tensor_value_info(f"{prefix}exit", TensorProto.INT64, [])
        return [helper.make_tensor_value_info(f"{prefix}logits", TensorProto.FLOAT, [1, manifest.classes]), exit_]

    def answer(i: int, prefix: str) -> list:
        """Return the nodes that answer with exit i."""
        number = helper.make_node("Constant", [], [f"{prefix}exit"], value=numpy_helper.from_array(np.int64(i)))
        return [helper.make_node("Identity", [f"stage_{i}_logits"], [f"{prefix}logits"]), number]

    def nodes(i: int, state: list[str], prefix: str) -> list:
        """Return the nodes of stage i and of all that follow, whose results have this prefix."""
        graph = compose.add_prefix(files[i], f"stage_{i}_").graph
        constants.extend(graph.initializer)
        made = [helper.make_node("Identity", [a], [f"stage_{i}_{b}"]) for a, b in zip(state, stages[i].inputs)]
        made += graph.node
        if i == last:
            return made + answer(i, prefix)
        constants.append(numpy_helper.from_array(np.float64(thresholds[i]), f"threshold_{i}"))
        made += [
            helper.make_node("Softmax", [f"stage_{i}_logits"], [f"softmax_{i}"], axis=-1),
            helper.make_node("ReduceMax", [f"softmax_{i}"], [f"largest_{i}"], keepdims=0),
            helper.make_node("Cast", [f"largest_{i}"], [f"confidence_{i}"], to=TensorProto.DOUBLE),
            helper.make_node("GreaterOrEqual", [f"confidence_{i}", f"threshold_{i}"], [f"leaves_{i}"]),
        ]
        here, later = f"here_{i}_", f"later_{i}_"
        following = [f"stage_{i}_{name}" for name in stages[i].outputs[1 + stages[i].similarity :]]
        branches = {
            "then_branch": helper.make_graph(answer(i, here), here, [], outputs(here)),
            "else_branch": helper.make_graph(nodes(i + 1, following, later), later, [], outputs(later)),
        }
        return [*made, helper.make_node("If", [f"leaves_{i}"], [f"{prefix}logits", f"{prefix}exit"], **branches)]

    prepare = model.preparations[0]
    if isinstance(prepare, TextPreparation):
        inputs = [helper.make_tensor_value_info("input", TensorProto.INT64, [1, "T"])]
    else:
        inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *prepare.shape])]
    graph = helper.make_graph(nodes(0, ["input"], ""), "offramp", inputs, outputs(""), constants)
    whole = helper.make_model(graph, opset_imports=files[0].opset_import, ir_version=files[0].ir_version)
    onnx.checker.check_model(whole)
    with whole_file(path) as partial:
        onnx.save(whole, partial)
