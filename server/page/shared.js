/** A value that several parts of the page show. */
import { useEffect, useState } from "./vendor/htm-preact.js";

/**
 * @template T
 * @param {T} value
 * @returns {{get: () => T, set: (value: T) => void, subscribe: (tell: () => void) => () => void}}
 */
export function shared(value) {
  const listeners = new Set();
  return {
    get: () => value,
    set(next) {
      value = next;
      for (const tell of [...listeners]) tell();
    },
    subscribe(tell) {
      listeners.add(tell);
      return () => listeners.delete(tell);
    },
  };
}

/** The value as it is; the component is drawn anew when it changes. */
export function useShared(source) {
  const [value, setValue] = useState(source.get);
  useEffect(() => {
    const update = () => setValue(() => source.get());
    update(); // it may have changed between drawing and now
    return source.subscribe(update);
  }, [source]);
  return value;
}
