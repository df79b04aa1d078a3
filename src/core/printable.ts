/**
 * Untrusted text on a user's terminal and in the log: names of programs, networks, interfaces and hosts are chosen by
 * others. Control characters (ECMA-48: C0, DEL, C1), line separators and direction overrides are shown as escapes.
 */

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g

/** One line of text that a terminal only shows. */
export function printable(text: string): string {
  return text.replace(UNSEEN, (character) => {
    const code = character.charCodeAt(0)
    return code < 0x100 ? `\\x${hex(code, 2)}` : `\\u${hex(code, 4)}`
  })
}

/** The same for several lines: breaks between them stay. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n')
}

/** JSON text as JSON: the same characters in its own escapes; `JSON.stringify` leaves those above U+007E as they are. */
export function printableJson(text: string): string {
  return text.replace(UNSEEN, (character) => `\\u${hex(character.charCodeAt(0), 4)}`)
}

function hex(code: number, digits: number): string {
  return code.toString(16).padStart(digits, '0')
}
