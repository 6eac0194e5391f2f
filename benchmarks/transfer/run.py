"""The whole measurement, in processes side by side."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from benchmarks.transfer.encoders import ENCODERS, RANDOM, encoder_file
from benchmarks.transfer.jobs import Job, all_jobs, run_job
from benchmarks.transfer.kept import Numbers, keep_each, read_lines
from benchmarks.transfer.settings import Settings
from benchmarks.transfer.trials import Trial, all_trials, choose_factors, run_trial
from utils.process_pool import end_with_parent

RESULTS, TRIALS = "results.jsonl", "trials.jsonl"


def _start() -> None:
    end_with_parent()
    torch.set_num_threads(1)


def run_all(settings: Settings, workers: int) -> dict[Job, Numbers]:
    """Pre-train, choose rates, then do the jobs that are left, some side by side."""
    settings.out.mkdir(parents=True, exist_ok=True)
    # Its own processes, each with one thread: started, not forked, since torch has threads already.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start) as pool:
        pairs = [(encoder, r) for encoder in ENCODERS if encoder != RANDOM for r in range(settings.replicates)]
        list(pool.map(encoder_file, *zip(*pairs, strict=True), [settings] * len(pairs)))

        trials = read_lines(settings.out / TRIALS, Trial)
        left = [trial for trial in all_trials(settings) if trial not in trials]
        trials |= keep_each(settings.out / TRIALS, left, pool.map(run_trial, left, [settings] * len(left)))
        factors = choose_factors(trials)

        done = read_lines(settings.out / RESULTS, Job)
        jobs = [job for job in all_jobs(settings) if job not in done]
        own = [factors.get((job.encoder, job.task, job.percent), 1.0) for job in jobs]
        # Jobs that differ in the number of labels alone go to the same process.
        numbers = pool.map(run_job, jobs, own, [settings] * len(jobs), chunksize=len(settings.percents))
        return done | keep_each(settings.out / RESULTS, jobs, numbers)
