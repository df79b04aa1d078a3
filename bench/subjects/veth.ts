/** No tunnel at all: the link itself, the upper bound. */
import type { Subject } from './subject.ts'

export const veth: Subject = {
  name: 'veth',
  missing: () => undefined,
  start: async (bed) => ({ target: bed.b.address, stop: async () => {} }),
}
