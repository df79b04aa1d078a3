/** Whom limits of unknown clients count together. */

/** An IPv4 address, or the /64 of an IPv6 address. */
export function sourceOf(address: string): string {
  const plain = address.replace(/^::ffff:/, '')
  return plain.includes(':') ? expanded(plain).slice(0, 4).join(':') : plain
}

/** Whose many sources may be: the /24 or the /48 around a source. */
export function siteOf(source: string): string {
  const end = source.lastIndexOf(source.includes(':') ? ':' : '.')
  return end < 0 ? source : source.slice(0, end)
}

function expanded(address: string): string[] {
  const [head = '', tail] = address.replace(/%.*/, '').split('::')
  const before = head === '' ? [] : head.split(':')
  const after = tail === undefined || tail === '' ? [] : tail.split(':')
  return [...before, ...Array<string>(Math.max(0, 8 - before.length - after.length)).fill('0'), ...after]
}
