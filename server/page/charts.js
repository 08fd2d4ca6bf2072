/** Lines over the last minutes, drawn by uPlot; their newest values stand beside them as text. */
import { html, useEffect, useRef } from "./vendor/htm-preact.js";
import uPlot from "./vendor/uplot.js";
import { theme } from "./theme_button.js";
import { useShared } from "./shared.js";

document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: "/page/vendor/uplot.css" }));

const HEIGHT = 160; // pixels

/**
 * @param {{title: string, unit: string, span: [number, number], times: number[],
 *   series: {name: string, values: (number | null)[]}[]}} props `span`: Unix seconds from left to right
 */
export function Chart({ title, unit, span, times, series }) {
  const place = useRef(null);
  const chart = useRef(null);
  const shown = useShared(theme);
  const latest = useRef(span);
  latest.current = span;

  useEffect(() => {
    const made = new uPlot(options(place.current, series, latest), [times, ...series.map(({ values }) => values)], place.current);
    chart.current = made;
    const resize = new ResizeObserver(([{ contentRect: { width } }]) => width && made.setSize({ width, height: HEIGHT }));
    resize.observe(place.current);
    return () => {
      resize.disconnect();
      made.destroy();
    };
  }, [shown]);
  useEffect(() => chart.current.setData([times, ...series.map(({ values }) => values)]), [times]);

  return html`
    <figure class="chart" aria-label=${title}>
      <h3>${title}</h3>
      <ul class="legend">
        ${series.map(({ name, values }, index) => html`
          <li><span class=${`swatch swatch-${index}`} />${name}: ${inWords(newest(values), unit)}</li>
        `)}
      </ul>
      <div class="plot-area" ref=${place} role="img" aria-label=${`${title}, over the last minutes`} />
    </figure>
  `;
}

function newest(values) {
  for (let index = values.length - 1; index >= 0; index -= 1) if (values[index] !== null) return values[index];
  return null;
}

export function inWords(value, unit) {
  if (value === null || value === undefined) return "–";
  const digits = value >= 100 || Number.isInteger(value) ? 0 : value >= 1 ? 1 : 2;
  return `${value.toLocaleString("en", { maximumFractionDigits: digits })}${unit && ` ${unit}`}`;
}

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

function options(element, series, span) {
  const style = getComputedStyle(element);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  return {
    width: element.clientWidth || 300,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: true, range: () => span.current }, y: { range: (_, __, most) => [0, Math.max(1, (most ?? 0) * 1.15)] } },
    axes: [{ ...axis, size: 30, space: 70, values: (_, splits) => splits.map(clock) }, { ...axis, size: 48 }],
    series: [{}, ...series.map((_, index) => ({ stroke: colour(`--series-${index}`), width: 2, spanGaps: true, points: { show: false } }))],
  };
}
