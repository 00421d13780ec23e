// Draws what stands in #chart-data (host/report/section.ts has its form), in the page's colors, and again when they change.
const charts = JSON.parse(document.getElementById('chart-data').textContent);
const drawn = new Map();
const logarithmic = new Set();
/** Of a curve: what is seen of it, in percent. */
const everything = { start: 0, end: 100 };
/** CSS pixels of a page of A4 or Letter between its margins. */
const PRINTED_WIDTH = 660;

document.documentElement.classList.add('scripts');
for (const id of Object.keys(charts)) draw(id);
for (const button of document.querySelectorAll('button[data-chart]'))
  button.addEventListener('click', () => press(button));

new ResizeObserver(() => {
  if (!document.documentElement.classList.contains('printing')) for (const chart of drawn.values()) chart.resize();
}).observe(document.querySelector('main'));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => Object.keys(charts).forEach(draw));
addEventListener('beforeprint', () => drawForPrint(true));
addEventListener('afterprint', () => drawForPrint(false));

function drawForPrint(begins) {
  document.documentElement.classList.toggle('printing', begins);
  Object.keys(charts).forEach(draw);
  for (const chart of drawn.values()) chart.resize(begins ? { width: PRINTED_WIDTH } : { width: 'auto' });
}

function draw(id) {
  const element = document.getElementById(id);
  if (element === null) return;
  const chart = drawn.get(id) ?? echarts.init(element, null, { renderer: 'svg' });
  const seen = drawn.has(id) ? zoomOf(chart) : everything;
  drawn.set(id, chart);
  const options = { training: trainingOption, histogram: histogramOption, sizes: sizesOption };
  const option = options[charts[id].kind](charts[id], id);
  chart.setOption({ animation: false, textStyle: { fontFamily: 'system-ui, sans-serif' }, ...option }, true);
  if (charts[id].kind !== 'training') return;
  zoomTo(chart, seen);
  chart.off('datazoom');
  // A mouse draws the stretch that it wants to see; a finger moves along the curve, and two zoom.
  if (matchMedia('(pointer: fine)').matches)
    chart.dispatchAction({ type: 'takeGlobalCursor', key: 'dataZoomSelect', dataZoomSelectActive: true });
}

function press(button) {
  const { chart: id, does } = button.dataset;
  const chart = drawn.get(id);
  if (does === 'log') {
    const isOn = !logarithmic.has(id);
    if (isOn) logarithmic.add(id);
    else logarithmic.delete(id);
    button.setAttribute('aria-pressed', String(isOn));
    draw(id);
    return;
  }
  const { start, end } = zoomOf(chart);
  const change = { in: (start - end) / 4, out: (end - start) / 2, all: 100 }[does];
  zoomTo(chart, { start: Math.max(0, start - change), end: Math.min(100, end + change) });
}

function zoomOf(chart) {
  const [{ start, end } = everything] = chart.getOption().dataZoom ?? [];
  return { start, end };
}

function zoomTo(chart, { start, end }) {
  chart.dispatchAction({ type: 'dataZoom', dataZoomIndex: 0, start, end });
}

function colors() {
  const style = getComputedStyle(document.documentElement);
  const names = ['text', 'faint', 'line', 'page', 'soft', 'accent', 'second', 'third'];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function trainingOption(data, id) {
  const color = colors();
  const isLog = logarithmic.has(id);
  const positive = (points) => (isLog ? points.map(([step, value]) => [step, value > 0 ? value : null]) : points);
  const line = (name, points, style) => ({
    ...{
      name,
      type: 'line',
      data: positive(points),
      symbol: points.length === 1 ? 'circle' : 'none',
      connectNulls: false,
    },
    ...style,
  });
  const series = [
    line('loss', data.loss, { lineStyle: { width: 1, opacity: 0.45 }, color: color.accent, symbolSize: 3 }),
    line('smoothed', data.smoothed, {
      lineStyle: { width: 2.2 },
      color: color.accent,
      markLine: resumeLines(data, color),
    }),
    line('evaluation', data.evalLoss, {
      ...{ lineStyle: { width: 2 }, color: color.second, symbol: data.evalLoss.length < 60 ? 'circle' : 'none' },
      symbolSize: 5,
    }),
    ...data.discarded.map((points) =>
      line('thrown away', points, { lineStyle: { width: 1, type: [3, 3], opacity: 0.8 }, color: color.third }),
    ),
    {
      ...{ name: 'checkpoint', type: 'scatter', symbol: 'diamond', symbolSize: 9, color: color.text, z: 5 },
      data: positive(data.checkpoints.map((step) => [step, heightAt(data.smoothed, step)])),
    },
    {
      ...line('learning rate', [], { lineStyle: { width: 1.5 }, color: color.third }),
      ...{ data: data.learningRate, xAxisIndex: 1, yAxisIndex: 1 },
    },
  ].filter(({ data: points }) => points.some(([, value]) => value !== null));
  const names = [...new Set(series.map(({ name }) => name))];
  const steps = [...data.loss, ...data.discarded.flat()].map(([step]) => step);
  const [first, last] = steps.reduce(([low, high], step) => [Math.min(low, step), Math.max(high, step)], [Infinity, 0]);
  const hasRate = names.includes('learning rate');
  const xAxis = (gridIndex) => ({
    ...{ type: 'value', gridIndex, min: first, max: last, minInterval: 1, ...axisStyle(color) },
    splitLine: { show: false },
    axisLabel: { show: gridIndex === (hasRate ? 1 : 0), color: color.faint, hideOverlap: true, showMaxLabel: true },
  });
  const yAxis = (gridIndex, more) => ({ gridIndex, ...axisStyle(color), ...more });
  const rateLabel = { color: color.faint, formatter: (value) => (value === 0 ? '0' : value.toExponential(0)) };
  return {
    grid: [
      { left: 58, right: 22, top: 64, bottom: hasRate ? 178 : 84 },
      ...(hasRate ? [{ left: 58, right: 22, height: 62, bottom: 84 }] : []),
    ],
    legend: {
      ...{ data: names, type: 'plain', top: 0, left: 0, itemWidth: 18, itemHeight: 9, itemGap: 12 },
      textStyle: { color: color.text },
    },
    tooltip: tooltip(color, { trigger: 'axis', axisPointer: { type: 'line', lineStyle: { color: color.faint } } }),
    axisPointer: { link: [{ xAxisIndex: 'all' }] },
    toolbox: {
      left: -100,
      itemSize: 1,
      feature: {
        dataZoom: { xAxisIndex: 'all', yAxisIndex: 'none', brushStyle: { color: color.accent, opacity: 0.18 } },
      },
    },
    xAxis: [xAxis(0), ...(hasRate ? [xAxis(1)] : [])],
    yAxis: [
      yAxis(0, { type: isLog ? 'log' : 'value', scale: true }),
      ...(hasRate ? [yAxis(1, { type: 'value', splitNumber: 2, axisLabel: rateLabel })] : []),
    ],
    dataZoom: [
      {
        ...{ type: 'inside', xAxisIndex: 'all', minValueSpan: 2, filterMode: 'none' },
        ...{ zoomOnMouseWheel: 'ctrl', moveOnMouseWheel: false, preventDefaultMouseMove: false },
      },
      {
        show: !document.documentElement.classList.contains('printing'),
        ...{ type: 'slider', xAxisIndex: 'all', minValueSpan: 2, filterMode: 'none', height: 24, bottom: 12 },
        ...{ left: 58, right: 22, brushSelect: false, showDetail: false, borderColor: color.line },
        ...{
          fillerColor: `color-mix(in srgb, ${color.accent} 18%, transparent)`,
          dataBackground: { lineStyle: { color: color.third }, areaStyle: { color: color.soft } },
        },
      },
    ],
    series,
  };
}

function resumeLines({ resumes }, color) {
  const label = { formatter: 'resume', position: 'end', color: color.second, distance: [0, 2], fontSize: 11 };
  return {
    ...{ silent: true, symbol: 'none', animation: false, label },
    lineStyle: { color: color.second, type: 'dashed', width: 1 },
    data: resumes.map((step) => ({ xAxis: step })),
  };
}

/** The value of a thinned line at a step, or at the nearest one before it. */
function heightAt(points, step) {
  const after = points.findIndex(([each]) => each > step);
  const point = points.at(after === -1 ? -1 : Math.max(0, after - 1));
  return point === undefined ? null : point[1];
}

function histogramOption({ what, bars }) {
  const color = colors();
  const labels = bars.map(({ label }) => label);
  return {
    grid: { left: 58, right: 22, top: 34, bottom: 48 },
    tooltip: tooltip(color, { trigger: 'axis', axisPointer: { type: 'shadow' } }),
    xAxis: {
      ...{ type: 'category', data: labels, name: what, nameLocation: 'middle', nameGap: 28, ...axisStyle(color) },
      axisLabel: { color: color.faint, hideOverlap: true },
    },
    yAxis: { type: 'value', name: 'rows', minInterval: 1, nameTextStyle: { align: 'right' }, ...axisStyle(color) },
    series: [
      { name: 'rows', type: 'bar', barCategoryGap: '8%', color: color.accent, data: bars.map(({ rows }) => rows) },
    ],
  };
}

function sizesOption({ sizes, maxPixels }) {
  const color = colors();
  const most = Math.max(...sizes.map(([, , count]) => count));
  const widest = Math.max(...sizes.map(([width]) => width));
  const highest = Math.max(...sizes.map(([, height]) => height));
  const limit = Array.from({ length: 60 }, (_, index) => {
    const width = (widest * 1.05 * (index + 1)) / 60;
    return [width, maxPixels / width];
  }).filter(([, height]) => height <= highest * 1.05);
  const isLimited = maxPixels !== null && limit.length > 1;
  return {
    grid: { left: 58, right: 22, top: isLimited ? 62 : 40, bottom: 48 },
    legend: {
      show: isLimited,
      data: ['pictures', 'image_max_pixels'],
      top: 0,
      left: 0,
      itemWidth: 18,
      itemHeight: 9,
      textStyle: { color: color.text },
    },
    tooltip: tooltip(color, {
      trigger: 'item',
      formatter: ({ value: [width, height, count] }) =>
        count === undefined ? '' : `${width} × ${height}: ${count} picture${count === 1 ? '' : 's'}`,
    }),
    xAxis: { type: 'value', name: 'width', min: 0, nameLocation: 'middle', nameGap: 28, ...axisStyle(color) },
    yAxis: { type: 'value', name: 'height', min: 0, nameTextStyle: { align: 'right' }, ...axisStyle(color) },
    series: [
      {
        ...{ name: 'pictures', type: 'scatter', data: sizes, itemStyle: { opacity: 0.6 }, color: color.accent },
        symbolSize: ([, , count]) => 5 + 27 * Math.sqrt(count / most),
      },
      ...(isLimited
        ? [
            {
              name: 'image_max_pixels',
              type: 'line',
              data: limit,
              showSymbol: false,
              silent: true,
              color: color.second,
              lineStyle: { width: 1.5, type: 'dashed' },
            },
          ]
        : []),
    ],
  };
}

function axisStyle(color) {
  return {
    axisLine: { lineStyle: { color: color.line } },
    axisTick: { lineStyle: { color: color.line } },
    axisLabel: { color: color.faint },
    nameTextStyle: { color: color.faint },
    splitLine: { lineStyle: { color: color.line, opacity: 0.6 } },
  };
}

function tooltip(color, more) {
  return {
    ...{
      confine: true,
      backgroundColor: color.page,
      borderColor: color.line,
      textStyle: { color: color.text, fontSize: 12 },
    },
    ...more,
  };
}
