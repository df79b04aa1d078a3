import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatSelector, parseSelector } from '../../../src/core/selector.ts'

test('UP-2: selectors name everything, a flow, an application, ports, a user, a destination, a cgroup', () => {
  const texts = [
    'all',
    'f12',
    'app:curl',
    'app:/usr/bin/curl',
    'port:80',
    'port:8000-8080',
    'user:alice',
    'user:1000',
    'to:203.0.113.0/24',
    'to:2001:db8::/32',
    'cgroup:user.slice/user-1000.slice',
  ]
  for (const text of texts) {
    const parsed = parseSelector(text)
    assert.ok(parsed.ok, text)
    assert.equal(formatSelector(parsed.value), text)
  }
  const host = parseSelector('to:203.0.113.9')
  assert.ok(host.ok)
  assert.equal(formatSelector(host.value), 'to:203.0.113.9/32')
})

test('a selector that means nothing is refused with what was wrong', () => {
  for (const text of [
    '',
    'app:',
    'app:bin/curl',
    'port:0',
    'port:90-80',
    'port:http',
    'to:203.0.113.1/24',
    'to:300.0.0.1',
    'user:a b',
    'cgroup:../x',
    'colour:red',
  ]) {
    const parsed = parseSelector(text)
    assert.ok(!parsed.ok, text)
    assert.ok(parsed.reason.includes(text) || text === '', parsed.reason)
  }
})
