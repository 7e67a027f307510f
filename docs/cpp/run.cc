// Runs a model that `graphopt compile` made, without Python:
//
//     run MODEL.gopt [--threads N] [--repeat N] [--out FOLDER] x=x.npy [y=y.npy ...]
//
// Each input is read from a .npy file and each output written to FOLDER/NAME.npy. Besides this program a device needs
// libtvm_ffi.so and libtvm_runtime.so, which `graphopt compile --bundle-runtime` puts into the artifact.
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <map>
#include <sstream>

#include "cpu.h"
#include "npy.h"

namespace ffi = tvm::ffi;
namespace json = tvm::ffi::json;

json::Value get(const json::Object& object, const char* key) {
  auto found = object.find(ffi::Any(ffi::String(key)));
  if (found == object.end()) throw std::runtime_error(std::string("manifest.json lacks '") + key + "'");
  return (*found).second;
}

std::string text(const json::Object& object, const char* key) { return get(object, key).cast<ffi::String>(); }

json::Object read_manifest(const std::string& folder) {
  std::ifstream file(folder + "/manifest.json");
  if (!file) throw std::runtime_error(folder + ": is not an artifact: it has no manifest.json");
  std::stringstream content;
  content << file.rdbuf();
  ffi::String problem;
  json::Value value = json::Parse(content.str(), &problem);
  if (!problem.empty()) throw std::runtime_error(folder + ": manifest.json is damaged: " + std::string(problem));
  json::Object manifest = value.cast<json::Object>();
  if (get(manifest, "format").cast<int64_t>() != 3)
    throw std::runtime_error(folder + ": has another format than this program reads");
  if (text(manifest, "device") != "cpu") throw std::runtime_error(folder + ": is not compiled for a CPU");
  if (text(manifest, "machine") != cpu::machine())
    throw std::runtime_error(folder + ": is compiled for " + text(manifest, "machine") + ", but this is " +
                             cpu::machine());
  for (const json::Value& feature : get(manifest, "features").cast<json::Array>()) {
    std::string name = feature.cast<ffi::String>();
    if (!cpu::has(name)) throw std::runtime_error(folder + ": needs the CPU feature " + name + ", which this processor lacks");
  }
  return manifest;
}

// Weights are used where the file is mapped: nothing is read before it is needed, and processes share the pages.
struct Mapped {
  char* address;
  void AllocData(DLTensor* tensor) { tensor->data = address; }
  void FreeData(DLTensor*) {}
};

std::vector<ffi::Tensor> map_weights(const std::string& folder, const std::vector<json::Object>& weights) {
  std::vector<ffi::Tensor> tensors;
  if (weights.empty()) return tensors;
  std::string path = folder + "/weights.bin";
  int file = open(path.c_str(), O_RDONLY);
  struct stat info {};
  if (file < 0 || fstat(file, &info) != 0) throw std::runtime_error(path + ": cannot be opened");
  auto size = static_cast<size_t>(info.st_size);
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (mapped == MAP_FAILED) throw std::runtime_error(path + ": cannot be mapped");
  for (const json::Object& weight : weights) {
    std::vector<int64_t> shape;
    for (const json::Value& dim : get(weight, "shape").cast<json::Array>()) shape.push_back(dim.cast<int64_t>());
    auto offset = static_cast<size_t>(get(weight, "offset").cast<int64_t>());
    auto tensor = ffi::Tensor::FromNDAlloc(Mapped{static_cast<char*>(mapped) + offset},
                                           ffi::ShapeView(shape.data(), shape.size()),
                                           ffi::StringToDLDataType(text(weight, "dtype")), DLDevice{kDLCPU, 0});
    if (offset + ffi::GetDataSize(tensor) > size) throw std::runtime_error(path + ": is shorter than it should be");
    tensors.emplace_back(tensor);
  }
  return tensors;
}

// A size is a number, or a name that stands for one size wherever it is used.
void check_shape(const json::Object& input, const ffi::Tensor& tensor, std::map<std::string, int64_t>* sizes) {
  json::Array dims = get(input, "shape").cast<json::Array>();
  std::string name = "input '" + text(input, "name") + "'";
  if (dims.size() != tensor.shape().size())
    throw std::runtime_error(name + " has rank " + std::to_string(tensor.shape().size()) + ", but the model takes " +
                             std::to_string(dims.size()));
  for (size_t axis = 0; axis < dims.size(); ++axis) {
    int64_t size = tensor.shape()[axis];
    int64_t wanted = size;
    if (auto fixed = dims[axis].as<int64_t>()) wanted = *fixed;
    if (auto symbol = dims[axis].as<ffi::String>()) wanted = sizes->emplace(std::string(*symbol), size).first->second;
    if (size != wanted)
      throw std::runtime_error(name + " has size " + std::to_string(size) + " on axis " + std::to_string(axis) +
                               ", but must have " + std::to_string(wanted));
  }
}

// An input that no file is given for is its default, where it has one.
std::vector<ffi::Any> read_inputs(const std::string& folder, const json::Object& manifest,
                                  std::map<std::string, std::string> files) {
  json::Object defaults = get(manifest, "defaults").cast<json::Object>();
  std::vector<ffi::Any> tensors;
  std::map<std::string, int64_t> sizes;
  for (const json::Value& entry : get(manifest, "inputs").cast<json::Array>()) {
    json::Object input = entry.cast<json::Object>();
    auto file = files.find(text(input, "name"));
    auto known = defaults.find(ffi::String(text(input, "name")));
    if (file == files.end() && known == defaults.end())
      throw std::runtime_error("no file given for input '" + text(input, "name") + "'");
    ffi::Tensor tensor = file != files.end()
                             ? npy::load(file->second, ffi::StringToDLDataType(text(input, "dtype")))
                             : map_weights(folder, {(*known).second.cast<json::Object>()})[0];
    check_shape(input, tensor, &sizes);
    tensors.emplace_back(tensor);
    if (file != files.end()) files.erase(file);
  }
  if (!files.empty()) throw std::runtime_error("there is no input '" + files.begin()->first + "'");
  return tensors;
}

// Every thread may run on every CPU that this process may use; TVM's default pins the caller to the first.
void use_threads(int count) {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof(set), &set);
  ffi::Array<ffi::String> cpus;
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &set)) cpus.push_back(std::to_string(i));
  int all = static_cast<int>(cpus.size());
  ffi::Function::GetGlobalRequired("runtime.config_threadpool")(-3, count > 0 ? std::min(count, all) : all, cpus);
}

struct Options {
  std::string folder, out = ".";
  int threads = 0, repeat = 1;
  std::map<std::string, std::string> inputs;
};

Options parse(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    std::string argument = arguments[i];
    size_t equals = argument.find('=');
    bool more = i + 1 < count;
    if (argument == "--threads" && more) {
      options.threads = std::stoi(arguments[++i]);
    } else if (argument == "--repeat" && more) {
      options.repeat = std::max(1, std::stoi(arguments[++i]));
    } else if (argument == "--out" && more) {
      options.out = arguments[++i];
    } else if (options.folder.empty() && argument.rfind("--", 0) != 0) {
      options.folder = argument;
    } else if (equals != std::string::npos) {
      options.inputs[argument.substr(0, equals)] = argument.substr(equals + 1);
    } else {
      throw std::runtime_error("cannot understand '" + argument + "'");
    }
  }
  if (options.folder.empty())
    throw std::runtime_error("usage: run MODEL.gopt [--threads N] [--repeat N] [--out FOLDER] NAME=FILE.npy ...");
  return options;
}

void run(const Options& options) {
  json::Object manifest = read_manifest(options.folder);
  // dlopen searches the system's folders for a bare name: always an absolute path.
  char* path = realpath((options.folder + "/lib.so").c_str(), nullptr);
  if (path == nullptr) throw std::runtime_error(options.folder + ": lib.so is missing");
  ffi::Module library = ffi::Module::LoadFromFile(path);
  free(path);
  auto machine = (*library->GetFunction("vm_load_executable"))().cast<ffi::Module>();
  (*machine->GetFunction("vm_initialization"))(static_cast<int>(kDLCPU), 0, 2);  // 2: memory is kept between runs
  std::vector<ffi::Any> arguments = read_inputs(options.folder, manifest, options.inputs);
  std::vector<json::Object> weights;
  for (const json::Value& entry : get(manifest, "weights").cast<json::Array>())
    weights.push_back(entry.cast<json::Object>());
  for (const ffi::Tensor& weight : map_weights(options.folder, weights)) arguments.emplace_back(weight);
  std::vector<ffi::AnyView> views(arguments.begin(), arguments.end());
  use_threads(options.threads);
  ffi::Function compiled = *machine->GetFunction("main");
  ffi::Any result;
  double best = 1e30;
  for (int i = 0; i < options.repeat; ++i) {
    auto start = std::chrono::steady_clock::now();
    compiled.CallPacked(views.data(), static_cast<int32_t>(views.size()), &result);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  json::Array outputs = get(manifest, "outputs").cast<json::Array>();
  ffi::Array<ffi::Tensor> tensors;
  if (auto one = result.as<ffi::Tensor>()) {
    tensors.push_back(*one);
  } else {
    tensors = result.cast<ffi::Array<ffi::Tensor>>();
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::string name = text(outputs[i].cast<json::Object>(), "name");
    std::replace(name.begin(), name.end(), '/', '_');
    npy::save(options.out + "/" + name + ".npy", tensors[i]);
    std::cout << options.out << "/" << name << ".npy\n";
  }
  if (options.repeat > 1) std::cout << best * 1e3 << " ms\n";
}

int main(int count, char** arguments) {
  try {
    run(parse(count, arguments));
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
