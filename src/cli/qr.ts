/** A text as a QR code on a terminal: two modules in a character, dark on light whatever the terminal's colours are. */
import encodeQR from 'qr'
import { usageError } from '../core/errors.ts'

/** Light modules around the code (ISO/IEC 18004, 6.3.8). */
const BORDER = 4

/** Lines to print; throws when they are wider than the terminal. `colour` false: light modules are what is printed. */
export function qrLines(text: string, width: number, colour: boolean): string[] {
  const rows = encodeQR(text, 'raw', { ecc: 'low', border: BORDER })
  const size = rows.length
  if (size > width)
    throw usageError(`the QR code needs ${size} columns, this terminal has ${width}`, {
      hint: 'remove the invitation (godwit anchor remove NAME), and make the terminal wider or its font smaller',
    })
  const lines: string[] = []
  for (let y = 0; y < size; y += 2) {
    const dark = (row: boolean[] | undefined, x: number) => row?.[x] ?? false
    let line = ''
    for (let x = 0; x < size; x++) line += glyph(dark(rows[y], x), dark(rows[y + 1], x), colour)
    lines.push(colour ? `${line}\x1b[0m` : line)
  }
  return lines
}

function glyph(upper: boolean, lower: boolean, colour: boolean): string {
  if (colour) return `\x1b[${upper ? 30 : 97};${lower ? 40 : 107}m▀`
  if (upper) return lower ? ' ' : '▄'
  return lower ? '▀' : '█'
}
