/** Reads Prometheus' text, and makes of two readings what happened between them. */

/** @typedef {{name: string, labels: Record<string, string>, value: number}} Sample */

/** @returns {Sample[]} */
export function parseMetrics(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!found) continue; // a comment
    const labels = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(/(\w+)="((?:\\.|[^"\\])*)"/g)) labels[name] = value;
    samples.push({ name: found[1], labels, value: found[3] === "+Inf" ? Infinity : Number(found[3]) });
  }
  return samples;
}

/** One reading of the server. */
export class Reading {
  /** @param {Sample[]} samples */
  constructor(samples, seconds) {
    this.seconds = seconds;
    this.samples = samples;
    this.sums = new Map();
    for (const { name, value } of samples) this.sums.set(name, (this.sums.get(name) ?? 0) + value);
  }

  sum(name, labels = null) {
    if (!labels) return this.sums.get(name) ?? 0;
    const fits = (sample) => sample.name === name && Object.entries(labels).every(([label, value]) => sample.labels[label] === value);
    return this.samples.filter(fits).reduce((total, { value }) => total + value, 0);
  }

  /** Counts up to each bound, over all engines. */
  buckets(name) {
    const byBound = new Map();
    for (const sample of this.samples) {
      if (sample.name !== `${name}_bucket`) continue;
      const bound = sample.labels.le === "+Inf" ? Infinity : Number(sample.labels.le);
      byBound.set(bound, (byBound.get(bound) ?? 0) + sample.value);
    }
    return [...byBound].sort(([one], [other]) => one - other);
  }
}

/** Counters begin anew with a worker: what would be less than nothing is nothing. */
const rise = (before, now, name) => Math.max(0, now.sum(name) - before.sum(name));

/** Per second; null without two readings. */
export function rate(before, now, name) {
  const seconds = now.seconds - before.seconds;
  return seconds > 0 ? rise(before, now, name) / seconds : null;
}

/** The mean of what a histogram saw in between; null if it saw nothing. */
export function mean(before, now, name) {
  const count = rise(before, now, `${name}_count`);
  return count ? rise(before, now, `${name}_sum`) / count : null;
}

/** A share of what it saw lies below this; between two bounds it is taken to be spread evenly. */
export function quantile(before, now, name, share) {
  const earlier = new Map(before.buckets(name));
  const counts = now.buckets(name).map(([bound, count]) => [bound, count - (earlier.get(bound) ?? 0)]);
  const total = counts.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  let [lower, below] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= share * total) return bound === Infinity ? lower : lower + ((share * total - below) / (count - below)) * (bound - lower);
    [lower, below] = [bound, count];
  }
  return lower;
}
