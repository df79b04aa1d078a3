/**
 * Plots as SVG files, drawn without a browser. A chart has panels one above the other over the same seconds, and marks:
 * vertical lines at moments that matter, such as handovers.
 */
import type { EChartsOption } from 'echarts'
import { missingError } from '../src/core/errors.ts'

export interface Series {
  readonly name: string
  /** (seconds, value), in order of time. */
  readonly points: readonly (readonly [number, number])[]
  readonly colour?: string
  /** Steps for what holds until it changes, dots for single events; default a line. */
  readonly style?: 'line' | 'steps' | 'dots'
}

export interface Panel {
  readonly unit: string
  readonly series: readonly Series[]
}

export interface Chart {
  readonly title: string
  /** A line below the title. */
  readonly note?: string
  readonly panels: readonly Panel[]
  readonly marks?: readonly { readonly at: number; readonly label: string }[]
}

const WIDTH = 1000
const PANEL = 220
const GAP = 62
const TOP = 112
const LEFT = 76
const RIGHT = 30

/** Colours of the paper's Figure 5: the first access red, the second blue. */
export const PALETTE = ['#c23531', '#2f6db5', '#2f9e5a', '#8a8f98', '#d9822b', '#7a52a5']

/** Draws the chart. Loads the charting library on first use; MISSING where it is not installed (ADR 0056). */
export async function drawSvg(chart: Chart): Promise<string> {
  const { init } = await loadCharts()
  const height = TOP + chart.panels.length * (PANEL + GAP)
  const image = init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height })
  try {
    image.setOption(optionOf(chart))
    return image.renderToSVGString()
  } finally {
    image.dispose()
  }
}

async function loadCharts(): Promise<typeof import('echarts')> {
  try {
    return await import('echarts')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error
    const reason = 'plots are drawn by the package echarts, which is not installed'
    throw missingError(reason, 'npm install -g echarts@6', { cause: error })
  }
}

function optionOf(chart: Chart): EChartsOption {
  const times = chart.panels.flatMap((panel) => panel.series.flatMap((s) => s.points.map(([at]) => at)))
  const end = times.reduce((most, at) => Math.max(most, at), 1)
  return {
    animation: false,
    backgroundColor: '#ffffff',
    color: PALETTE,
    textStyle: { fontFamily: 'sans-serif' },
    title: {
      text: chart.title,
      subtext: chart.note ?? '',
      left: LEFT,
      top: 8,
      textStyle: { fontSize: 16 },
      subtextStyle: { fontSize: 12 },
    },
    legend: { top: 34, right: RIGHT, itemWidth: 18, itemHeight: 3 },
    grid: chart.panels.map((_, row) => ({
      left: LEFT,
      width: WIDTH - LEFT - RIGHT,
      top: TOP + row * (PANEL + GAP),
      height: PANEL,
    })),
    xAxis: chart.panels.map((_, row) => ({
      type: 'value' as const,
      gridIndex: row,
      min: 0,
      max: Math.ceil(end),
      name: row === chart.panels.length - 1 ? 'seconds' : '',
      nameLocation: 'middle' as const,
      nameGap: 28,
      splitLine: { show: false },
    })),
    yAxis: chart.panels.map((panel, row) => ({
      type: 'value' as const,
      gridIndex: row,
      name: panel.unit,
      nameLocation: 'middle' as const,
      nameGap: 54,
      min: 0,
    })),
    series: chart.panels.flatMap((panel, row) =>
      panel.series.map((series, index) => ({
        name: series.name,
        type: series.style === 'dots' ? ('scatter' as const) : ('line' as const),
        xAxisIndex: row,
        yAxisIndex: row,
        data: series.points.map(([at, value]) => [at, value]),
        symbolSize: series.style === 'dots' ? 3 : 0,
        showSymbol: series.style === 'dots',
        ...(series.style === 'steps' ? { step: 'end' as const } : {}),
        lineStyle: { width: 1.4 },
        ...(series.colour === undefined ? {} : { color: series.colour, itemStyle: { color: series.colour } }),
        ...(index === 0 && chart.marks !== undefined ? { markLine: markLine(chart, row) } : {}),
      })),
    ),
  }
}

function markLine(chart: Chart, row: number) {
  return {
    silent: true,
    symbol: 'none',
    lineStyle: { color: '#555', type: 'dashed' as const, width: 1 },
    label: { show: row === 0, color: '#333', fontSize: 11, rotate: 0, formatter: '{b}' },
    // Labels of neighbours at two heights, so that they do not cover one another.
    data: (chart.marks ?? []).map((mark, index) => ({
      name: mark.label,
      xAxis: mark.at,
      label: { distance: index % 2 === 0 ? 4 : 20 },
    })),
  }
}
