/** House point 4: records are tagged, and their text stays what it was. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { concerns, formatSubject, type Subject, subjectOf } from '../../../src/core/subject.ts'

const TEXTS: [Subject, string][] = [
  [{ kind: 'all' }, 'all'],
  [{ kind: 'flow', id: 'f12' }, 'f12'],
  [{ kind: 'application', selector: 'app:curl+port:443' }, 'app:curl+port:443'],
  [{ kind: 'policy', name: 'calls' }, 'policy calls'],
  [{ kind: 'policy', name: 'calls', pinned: 'acc2' }, 'policy calls, pinned to acc2'],
  [{ kind: 'policy', name: 'rest', peer: 'home' }, 'rest.home'],
  [{ kind: 'access', name: 'acc1' }, 'acc1'],
  [{ kind: 'peer', name: 'anchor' }, 'anchor'],
]

test('the text of a subject is what `what` always said', () => {
  for (const [subject, text] of TEXTS) assert.equal(formatSubject(subject), text)
})

test('what a user names becomes all, a flow or an application', () => {
  assert.deepEqual(subjectOf('all'), { kind: 'all' })
  assert.deepEqual(subjectOf('f12'), { kind: 'flow', id: 'f12' })
  assert.deepEqual(subjectOf('port:80'), { kind: 'application', selector: 'port:80' })
})

test('a record is found by its kind: an access and a peer of the same name are two things', () => {
  const flow = { id: 'f12', peer: 'home', access: 'acc1', policy: { name: 'calls' }, facts: { dstPort: 80 } }
  const about = (subject: Subject) => concerns(subject, flow)
  assert.ok(
    about({ kind: 'all' }) && about({ kind: 'flow', id: 'f12' }) && about({ kind: 'peer', name: 'home' }),
  )
  assert.ok(about(subjectOf('port:80')) && !about(subjectOf('port:81')))
  assert.ok(
    about({ kind: 'policy', name: 'calls' }) && about({ kind: 'policy', name: 'calls', pinned: 'acc1' }),
  )
  assert.ok(!about({ kind: 'policy', name: 'calls', peer: 'home' }), 'a class of a router is another thing')
  assert.ok(!about({ kind: 'access', name: 'home' }) && !about({ kind: 'flow', id: 'home' }))
  const spread = {
    id: 'rest.home',
    peer: 'home',
    access: 'acc1+acc2',
    policy: { name: 'rest', peer: 'home' },
  }
  assert.ok(concerns({ kind: 'access', name: 'acc2' }, spread))
  assert.ok(concerns({ kind: 'policy', name: 'rest', peer: 'home' }, spread))
})
