"""Records of the next-step metrics, which `hoser_kd.student.next_step_metrics` measures on the test trips."""

from __future__ import annotations

from hoser_kd.evaluation.metric_registry import Metric

NEXT_STEP = (
    Metric(
        "next_step.accuracy",
        label="accuracy",
        text="Share of steps whose most probable next road is the true one.",
        better="higher",
        is_share=True,
        headline=True,
    ),
    Metric(
        "next_step.decision_accuracy",
        label="accuracy at decisions",
        text="Accuracy over the steps with two or more candidates.",
        better="higher",
        is_share=True,
        headline=True,
    ),
    Metric(
        "next_step.decision_share", label="decisions", text="Share of steps with two or more candidates.", is_share=True
    ),
    Metric(
        "next_step.top_3",
        label="top-3 accuracy",
        text="Share of steps whose true next road is among the three most probable.",
        better="higher",
        is_share=True,
    ),
    Metric(
        "next_step.nll",
        label="negative log-likelihood",
        text="Negative log-likelihood of the true next road, mean over steps.",
        unit="nat",
        better="lower",
        headline=True,
    ),
    Metric(
        "next_step.calibration_error",
        label="calibration error",
        text="Expected calibration error: absolute difference of confidence and accuracy, mean over 15 equal bins of "
        "confidence weighted by their number of steps.",
        better="lower",
        is_share=True,
        headline=True,
    ),
    Metric(
        "next_step.time_mae_s",
        label="time, mean absolute error",
        text="Absolute error of the time to the next road, mean over steps.",
        unit="s",
        better="lower",
        headline=True,
    ),
    Metric(
        "next_step.time_mape",
        label="time, relative error",
        text="Absolute error of the time to the next road over the true time (at least 1 s), mean over steps.",
        better="lower",
        is_share=True,
    ),
    Metric(
        "next_step.time_log_mape",
        label="time, published loss",
        text="The published time loss: relative error of log(1 + seconds), mean over steps.",
        better="lower",
        is_share=True,
    ),
    Metric(
        "next_step.teacher_agreement",
        label="agreement with the teacher",
        text="Share of the steps with two or more candidates where the student's choice has the teacher's highest "
        "score.",
        is_share=True,
        headline=True,
    ),
    Metric(
        "next_step.teacher_kl",
        label="KL divergence from the teacher",
        text="Kullback-Leibler divergence of the student from the teacher, mean over the steps with two or more "
        "candidates.",
        unit="nat",
    ),
    Metric("next_step.steps", label="steps", text="Number of test steps.", unit="steps"),
)
"""Registered by `hoser_kd.evaluation.metrics`."""
